# Scoring is cheap, so it follows the whole library.
rule evaluate:
    input:
        code("sdetr/**/*.py"),
        annotations=annotations("val"),
        detections=SEED / "detections.json",
    output:
        SEED / "metrics.json",
    log:
        SEED_LOGS / "evaluate.log",
    benchmark:
        SEED_LOGS / "evaluate.tsv"
    params:
        sdetr=SDETR,
    shell:
        "{params.sdetr} evaluate --annotations {input.annotations:q} --detections {input.detections:q} "
        "--out {output:q} 2>&1 | tee -i {log:q}"
