# One page of everything: it opens from disk and needs no network.
rule report:
    input:
        code("sdetr/evaluation/**/*.py", "sdetr/evaluation/templates/*"),
        PUBLISHED,
        TABLES,
        FIGURES,
        PICTURES,
    output:
        report(
            RESULTS / "report.html",
            caption="../report/report.rst",
            category="Report",
        ),
    log:
        LOGS / "report.log",
    localrule: True
    params:
        sdetr=SDETR,
        results=RESULTS,
        # Snakemake takes a text with braces for a pattern, but not one that a function gives.
        description=lambda _wildcards: SUITE.description,
        made_by=made_by,
    shell:
        "{params.sdetr} report --out {params.results:q} --description {params.description:q} "
        "--made-by {params.made_by:q} 2>&1 | tee -i {log:q}"
