# A training is re-run by its recipe and its data, never by a code edit. Checkpoints are not declared:
# Snakemake deletes the declared outputs of a failed job, and a retry resumes from the checkpoints.
if SUITE.pretraining is not None:

    rule pretrain:
        input:
            drawn("pretraining"),
            rules.check.output,
            RESULTS / "runs/pretraining/pretraining.yaml",
            recipe=RESULTS / "runs/pretraining/recipe.yaml",
            dataset=RESULTS / "dataset.yaml",
        output:
            BACKBONE,
        log:
            LOGS / "pretrain.log",
        benchmark:
            LOGS / "pretrain.tsv"
        # Everything else waits for it, so it takes every core.
        threads: all_cores
        resources:
            gpu=SUITE.gpus,
        params:
            sdetr=SDETR,
            gpus=SUITE.gpus,
            suite=SUITE.suite,
            seed=SUITE.pretraining.seed,
            workers=SUITE.workers,
            folder=BACKBONE.parent,
        shell:
            "{params.sdetr} pretrain --suite {params.suite} --seed {params.seed} --recipe {input.recipe:q} "
            "--dataset {input.dataset:q} --out {params.folder:q} --threads {threads} --gpus {params.gpus} "
            "--workers {params.workers} 2>&1 | tee -i {log:q}"


if PLAN.trained:

    rule train:
        input:
            drawn("train", "monitor"),
            backbone_of,
            rules.check.output,
            recipe=RESULTS / "runs/{run}/recipe.yaml",
            dataset=RESULTS / "dataset.yaml",
        output:
            weights=SEED / "weights.pt",
            summary=SEED / "train.json",
            curve=SEED / "train.csv",
        log:
            SEED_LOGS / "train.log",
        benchmark:
            SEED_LOGS / "train.tsv"
        wildcard_constraints:
            run=one_of(PLAN.trained),
        threads: SUITE.threads
        resources:
            gpu=SUITE.gpus,
        params:
            sdetr=SDETR,
            gpus=SUITE.gpus,
            suite=SUITE.suite,
            recipe=lambda wildcards: PLAN.runs[wildcards.run].recipe,
            workers=SUITE.workers,
            backbone=backbone_option,
            folder=subpath(output.weights, parent=True),
        shell:
            "{params.sdetr} train --suite {params.suite} --run {wildcards.run} --seed {wildcards.seed} "
            "--recipe {input.recipe:q} --recipe-name {params.recipe} --dataset {input.dataset:q} "
            "--out {params.folder:q} {params.backbone} "
            "--threads {threads} --gpus {params.gpus} --workers {params.workers} 2>&1 | tee -i {log:q}"
