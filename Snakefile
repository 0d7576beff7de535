from snakemake.utils import min_version

min_version("9.0")


# Snakemake merges this file with one given by --configfile, key by key: a suite of the user's would
# inherit the runs of the demo. So the demo is read only if no other suite is named.
if not workflow.overwrite_configfiles:

    configfile: "config/demo.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/released.smk"
include: "workflow/rules/adopted.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/inspect.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/benchmark.smk"


# The tables are committed, so in a fresh clone they exist: the metrics, which do not, make the runs run.
rule all:
    default_target: True
    input:
        of_every_seed("metrics.json"),
        PUBLISHED,
        TABLES,
        FIGURES,
        PICTURES,
        RESULTS / "report.html",
