# Results files that other programs made. From detections.json on, such a run is scored as any other.
if PLAN.results_files:

    rule adopt:
        input:
            code("sdetr/adopted.py"),
            annotations=annotations("val"),
            made=lambda wildcards: PLAN.results_files[wildcards.run].file_of(
                wildcards.seed
            ),
            results_file=RESULTS / "runs/{run}/results_file.yaml",
        output:
            detections=SEED / "detections.json",
            summary=SEED / "predict.json",
            origin=SEED / "train.json",
        log:
            SEED_LOGS / "adopt.log",
        wildcard_constraints:
            run=one_of(PLAN.results_files),
        params:
            sdetr=SDETR,
            suite=SUITE.suite,
            folder=subpath(output.detections, parent=True),
        shell:
            "{params.sdetr} adopt --suite {params.suite} --run {wildcards.run} --seed {wildcards.seed} "
            "--results-file {input.results_file:q} --annotations {input.annotations:q} --out {params.folder:q} "
            "2>&1 | tee -i {log:q}"
