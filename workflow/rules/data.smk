# Neither rule follows the code: drawing or checking again would train everything again.
if PLAN.dataset.kind == "shapes":

    rule draw:
        input:
            dataset=PLAN.dataset.root / "dataset.yaml",
        output:
            annotations(*PLAN.splits),
        log:
            LOGS / "draw.log",
        localrule: True
        # Everything else waits for it, so it takes every core.
        threads: all_cores
        params:
            sdetr=SDETR,
        shell:
            "{params.sdetr} prepare shapes --dataset {input.dataset:q} --processes {threads} 2>&1 | tee -i {log:q}"


rule check:
    input:
        drawn(*PLAN.splits),
        dataset=RESULTS / "dataset.yaml",
    output:
        RESULTS / "data_check.json",
    log:
        LOGS / "check.log",
    localrule: True
    params:
        sdetr=SDETR,
    shell:
        "{params.sdetr} check --dataset {input.dataset:q} --out {output:q} 2>&1 | tee -i {log:q}"
