rule tables:
    input:
        code("sdetr/**/*.py"),
        of_every_seed("train.json"),
        of_every_seed("predict.json"),
        of_every_seed("bootstrap.npz"),
        metrics=of_every_seed("metrics.json"),
        published=[RESULTS / "published.yaml"] if PUBLISHED else [],
    output:
        PUBLISHED,
        detectors=report(
            RESULTS / "detectors.csv",
            caption="../report/detectors.rst",
            category="Tables",
        ),
        summary=report(
            RESULTS / "summary.csv",
            caption="../report/summary.rst",
            category="Tables",
        ),
    log:
        LOGS / "tables.log",
    localrule: True
    params:
        sdetr=SDETR,
        results=RESULTS,
        published=f"--published {RESULTS}/published.yaml" if PUBLISHED else "",
        folders=[str(Path(file).parent) for file in of_every_seed("metrics.json")],
    shell:
        "{params.sdetr} tables --out {params.results:q} {params.published} {params.folders:q} 2>&1 | tee -i {log:q}"
