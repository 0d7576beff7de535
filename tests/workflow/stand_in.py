"""Stands in for ``sdetr/__main__.py`` in the copies of the project that the workflow's tests make.

It writes what each command declares and computes nothing; ``FAIL`` in the working directory names the run
whose training fails.
"""

import sys
from itertools import pairwise
from pathlib import Path

import yaml

SPLITS = ("train", "val", "monitor", "pretraining")
FIGURES = ("ap_by_size", "precision_recall", "detections", "scenes", "learning_curves", "claims", "ablations")
WRITES = {
    "pretrain": ("backbone.pt",),
    "train": ("weights.pt", "train.json", "train.csv"),
    "convert": ("weights.pt", "train.json"),
    "adopt": ("detections.json", "predict.json", "train.json"),
    "predict": ("detections.json", "predict.json"),
    "tables": ("detectors.csv", "summary.csv"),
    "claims": ("claims.csv",),
    "ablations": ("ablations.csv",),
    "figures": tuple(f"figures/{name}.png" for name in FIGURES),
    "qkva": ("qkva_grid.png",),
    "report": ("report.html",),
}


def main() -> None:
    command = sys.argv[1]
    options = dict(pairwise(sys.argv[1:]))
    with Path("calls.log").open("a", encoding="utf-8") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    sys.stderr.write(f"{command} ran\n")
    if command == "prepare":
        root = Path(yaml.safe_load(Path(options["--dataset"]).read_text())["root"])
        outputs = [root / f"annotations/instances_{split}.json" for split in SPLITS]
    elif command in WRITES:
        outputs = [Path(options.get("--results") or options["--out"]) / name for name in WRITES[command]]
    else:
        outputs = [Path(options["--out"])]
    if command == "attention-cost":
        outputs.append(outputs[0].with_name("attention_fit.csv"))
    if "--published" in options:
        outputs += [Path(options["--out"]) / name for name in ("published.csv", "agreement.csv")]
    if command == "train":
        checkpoint = Path(options["--out"]) / "checkpoints/last.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text("step 7")
        fail = Path("FAIL")
        if fail.exists() and fail.read_text() == options["--run"]:
            sys.exit("error: loss is not a number")
    for output in outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(command)


if __name__ == "__main__":
    main()
