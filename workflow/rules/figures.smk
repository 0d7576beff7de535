# Pictures follow the code that draws them and the numbers that they show.
rule figures:
    input:
        library("evaluation"),
        curves=[folder / "train.csv" for folder in SEED_FOLDERS],
        table=rules.tables.output.detectors,
    output:
        RESULTS / "figures/overview.png",
