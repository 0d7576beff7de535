# Pictures follow the numbers that they show and the code that draws them.
rule figures:
    input:
        code("sdetr/evaluation/**/*.py"),
        annotations("val"),
        list(SUITE.reference_curves.values()),
        PUBLISHED,
        TABLES,
        of_every_seed("train.csv", PLAN.trained),
        of_every_seed("detections.json"),
        of_every_seed("bootstrap.npz"),
        RESULTS / "dataset.yaml",
    output:
        [
            report(file, caption=f"../report/{file.stem}.rst", category="Pictures")
            for file in FIGURES
        ],
    log:
        LOGS / "figures.log",
    localrule: True
    params:
        sdetr=SDETR,
        results=RESULTS,
        references=lambda _wildcards: " ".join(
            f"--reference {shlex.quote(label)} {shlex.quote(str(file))}"
            for label, file in SUITE.reference_curves.items()
        ),
    shell:
        "{params.sdetr} figures --out {params.results:q} {params.references} 2>&1 | tee -i {log:q}"
