# Asked for by name, and measured each time it is: `snakemake --cores all benchmark`. Nothing else runs beside it.
rule benchmark:
    log:
        "results/benchmarks/benchmark.log",
    localrule: True
    threads: all_cores
    resources:
        gpu=min(SUITE.gpus, 1),
    params:
        sdetr=SDETR,
        gpus=min(SUITE.gpus, 1),
    shell:
        "{params.sdetr} benchmark --out results/benchmarks --gpus {params.gpus} --threads {threads} 2>&1 | tee -i {log:q}"
