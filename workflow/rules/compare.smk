# What the paper claims and what each ablation changed, with intervals, from the small files of every run.
if PLAN.claims is not None:

    rule claims:
        input:
            code("sdetr/evaluation/**/*.py"),
            of_every_seed("metrics.json"),
            of_every_seed("bootstrap.npz"),
            rules.tables.output.detectors,
            [
                RESULTS / f"{name}.csv"
                for name in ("attention", "attention_fit")
                if name in PLAN.tables
            ],
            claims=RESULTS / "claims.yaml",
        output:
            report(
                RESULTS / "claims.csv",
                caption="../report/claims.rst",
                category="Tables",
            ),
        log:
            LOGS / "claims.log",
        localrule: True
        params:
            sdetr=SDETR,
            results=RESULTS,
            attention=f"--attention {RESULTS}" if SUITE.measure_attention else "",
        shell:
            "{params.sdetr} claims --claims {input.claims:q} --results {params.results:q} {params.attention} "
            "2>&1 | tee -i {log:q}"


if PLAN.ablations:

    rule ablations:
        input:
            code("sdetr/evaluation/**/*.py"),
            of_every_seed("metrics.json"),
            of_every_seed("bootstrap.npz"),
            rules.tables.output.detectors,
            ablations=RESULTS / "ablations.yaml",
        output:
            report(
                RESULTS / "ablations.csv",
                caption="../report/ablations.rst",
                category="Tables",
            ),
        log:
            LOGS / "ablations.log",
        localrule: True
        params:
            sdetr=SDETR,
            results=RESULTS,
        shell:
            "{params.sdetr} ablations --ablations {input.ablations:q} --results {params.results:q} 2>&1 | tee -i {log:q}"
