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


# The metrics of 1,000 resamples of the images, the same for every run: intervals of any difference follow from these files.
rule bootstrap:
    input:
        code("sdetr/evaluation/**/*.py"),
        annotations=annotations("val"),
        detections=SEED / "detections.json",
    output:
        SEED / "bootstrap.npz",
    log:
        SEED_LOGS / "bootstrap.log",
    benchmark:
        SEED_LOGS / "bootstrap.tsv"
    params:
        sdetr=SDETR,
    shell:
        "{params.sdetr} bootstrap --annotations {input.annotations:q} --detections {input.detections:q} "
        "--out {output:q} 2>&1 | tee -i {log:q}"
