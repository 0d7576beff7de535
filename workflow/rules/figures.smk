# Pictures follow the numbers that they show and the code that draws them.
rule figures:
    input:
        code("sdetr/**/*.py"),
        annotations("val"),
        list(SUITE.reference_curves.values()),
        published=PUBLISHED,
        curves=of_every_seed("train.csv", PLAN.trained),
        table=rules.tables.output.detectors,
        dataset=RESULTS / "dataset.yaml",
    output:
        RESULTS / "figures/overview.png",
        RESULTS / "figures/scenes.png",
    log:
        LOGS / "figures.log",
    params:
        sdetr=SDETR,
        results=RESULTS,
        title=f"{SUITE.suite}: {SUITE.description}",
        published=f"--published {PUBLISHED[0]}" if PUBLISHED else "",
        references=" ".join(
            f"--reference {shlex.quote(label)} {shlex.quote(str(file))}"
            for label, file in SUITE.reference_curves.items()
        ),
        folders=lambda wildcards, input: [
            str(Path(file).parent) for file in input.curves
        ],
    shell:
        "{params.sdetr} figures --out {params.results:q} --title {params.title:q} --dataset {input.dataset:q} "
        "{params.published} {params.references} {params.folders:q} 2>&1 | tee -i {log:q}"
