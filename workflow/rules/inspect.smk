# What detectors cost, and what their attention looks at.
rule cost:
    input:
        code("sdetr/evaluation/**/*.py"),
        summaries=of_every_seed("train.json"),
        predictions=of_every_seed("predict.json"),
        metrics=of_every_seed("metrics.json"),
    output:
        report(
            RESULTS / "cost.csv",
            caption="../report/cost.rst",
            category="Tables",
        ),
    log:
        LOGS / "cost.log",
    params:
        sdetr=SDETR,
        folders=[str(Path(file).parent) for file in of_every_seed("train.json")],
    shell:
        "{params.sdetr} cost --out {output:q} {params.folders:q} 2>&1 | tee -i {log:q}"


if SUITE.measure_attention:

    rule attention:
        input:
            code("sdetr/models/attention.py", "sdetr/inspection/attention_cost.py"),
        output:
            table=RESULTS / "attention.csv",
            fit=RESULTS / "attention_fit.csv",
        log:
            LOGS / "attention.log",
        # It measures time, so nothing else may run beside it.
        threads: all_cores
        resources:
            gpu=min(SUITE.gpus, 1),
        params:
            sdetr=SDETR,
            gpus=min(SUITE.gpus, 1),
            threads=SUITE.threads,
        shell:
            "{params.sdetr} attention-cost --out {output.table:q} --gpus {params.gpus} --threads {params.threads} "
            "2>&1 | tee -i {log:q}"

    rule attention_figure:
        input:
            code("sdetr/evaluation/plots_attention.py"),
            rules.attention.output.fit,
            table=rules.attention.output.table,
        output:
            report(
                RESULTS / "figures/attention_cost.png",
                caption="../report/attention_cost.rst",
                category="Pictures",
            ),
        log:
            LOGS / "attention_figure.log",
        localrule: True
        params:
            sdetr=SDETR,
        shell:
            "{params.sdetr} attention-figure --attention {input.table:q} --out {output:q} 2>&1 | tee -i {log:q}"


if PLAN.stacked_run is not None:
    STACKED = RESULTS / "runs" / PLAN.stacked_run
    STACKED_SEED = STACKED / f"seed{PLAN.seeds[PLAN.stacked_run][0]}"

    rule qkva:
        input:
            annotations("val"),
            code("sdetr/models/**/*.py", "sdetr/inspection/**/*.py"),
            weights=STACKED_SEED / "weights.pt",
            recipe=STACKED / "recipe.yaml",
            dataset=RESULTS / "dataset.yaml",
        output:
            report(
                RESULTS / "figures/qkva/qkva_grid.png",
                caption="../report/qkva_grid.rst",
                category="Pictures",
            ),
        log:
            LOGS / "qkva.log",
        params:
            sdetr=SDETR,
            folder=subpath(output[0], parent=True),
        shell:
            "{params.sdetr} qkva --recipe {input.recipe:q} --weights {input.weights:q} --dataset {input.dataset:q} "
            "--out {params.folder:q} 2>&1 | tee -i {log:q}"
