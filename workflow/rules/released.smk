# Weights that others trained. From weights.pt on, such a run is predicted and scored as any other.
if PLAN.released:
    DOWNLOADED = {
        str(PLAN.released_file(run)): released
        for run, released in PLAN.released.items()
        if released.is_address
    }

    # A file that a person put there is as good: its checksum is verified when it is converted.
    rule fetch:
        output:
            WEIGHTS / "{file}",
        log:
            LOGS / "fetch-{file}.log",
        wildcard_constraints:
            file=one_of(Path(path).name for path in DOWNLOADED),
        localrule: True
        params:
            sdetr=SDETR,
            source=lambda wildcards, output: DOWNLOADED[output[0]],
        shell:
            "{params.sdetr} fetch {params.source.weights:q} "
            "--{params.source.checksum.algorithm} {params.source.checksum.digits} --out {output:q} "
            "2>&1 | tee -i {log:q}"

    rule convert:
        input:
            annotations("val"),
            code("sdetr/released.py", "sdetr/models/**/*.py", "baselines/**/*.py"),
            weights=lambda wildcards: ancient(PLAN.released_file(wildcards.run)),
            released=RESULTS / "runs/{run}/released.yaml",
            recipe=RESULTS / "runs/{run}/recipe.yaml",
            dataset=RESULTS / "dataset.yaml",
        output:
            weights=SEED / "weights.pt",
            summary=SEED / "train.json",
        log:
            SEED_LOGS / "convert.log",
        wildcard_constraints:
            run=one_of(PLAN.released),
        params:
            sdetr=SDETR,
            suite=SUITE.suite,
            recipe=lambda wildcards: PLAN.runs[wildcards.run].recipe,
            folder=subpath(output.weights, parent=True),
        shell:
            "{params.sdetr} convert --suite {params.suite} --run {wildcards.run} --released {input.released:q} "
            "--weights {input.weights:q} --recipe {input.recipe:q} --recipe-name {params.recipe} "
            "--dataset {input.dataset:q} --out {params.folder:q} 2>&1 | tee -i {log:q}"
