if PLAN.runs:

    rule predict:
        input:
            annotations("val"),
            code(
                "sdetr/data/**/*.py",
                "sdetr/models/**/*.py",
                "sdetr/engine/predict.py",
                "sdetr/engine/device.py",
                "sdetr/evaluation/results_file.py",
                "sdetr/detector.py",
                "sdetr/structures.py",
                "baselines/**/*.py",
            ),
            weights=SEED / "weights.pt",
            recipe=RESULTS / "runs/{run}/recipe.yaml",
            dataset=RESULTS / "dataset.yaml",
        output:
            detections=SEED / "detections.json",
            summary=SEED / "predict.json",
        log:
            SEED_LOGS / "predict.log",
        benchmark:
            SEED_LOGS / "predict.tsv"
        wildcard_constraints:
            run=one_of(PLAN.runs),
        threads: SUITE.threads
        resources:
            gpu=SUITE.gpus,
        params:
            sdetr=SDETR,
            gpus=SUITE.gpus,
            workers=SUITE.workers,
            folder=subpath(output.detections, parent=True),
        shell:
            "{params.sdetr} predict --recipe {input.recipe:q} --dataset {input.dataset:q} --weights {input.weights:q} "
            "--out {params.folder:q} --threads {threads} --gpus {params.gpus} --workers {params.workers} "
            "2>&1 | tee -i {log:q}"
