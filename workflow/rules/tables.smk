rule tables:
    input:
        code("sdetr/**/*.py"),
        of_every_seed("train.json"),
        of_every_seed("predict.json"),
        metrics=of_every_seed("metrics.json"),
    output:
        RESULTS / "detectors.csv",
        RESULTS / "summary.csv",
    log:
        LOGS / "tables.log",
    params:
        sdetr=SDETR,
        results=RESULTS,
        folders=[str(Path(file).parent) for file in of_every_seed("metrics.json")],
    shell:
        "{params.sdetr} tables --out {params.results:q} {params.folders:q} 2>&1 | tee -i {log:q}"
