# Downloads COCO 2017 (20 GB; 41 GB of disk while it unpacks). It stands alone, so that no suite can start it:
#   snakemake --snakefile workflow/prepare_coco.smk --cores 1 --config coco_root=DIR
# What lies below DIR is no declared output: Snakemake deletes those when a job fails, and a stopped download goes on.
import shlex
import sys
from pathlib import Path

if "coco_root" not in config:
    sys.exit("error: coco_root: say where COCO 2017 is to lie: --config coco_root=DIR")

ROOT = Path(config["coco_root"])


rule prepare_coco:
    log:
        ROOT / "prepare.log",
    params:
        sdetr=f"{shlex.quote(sys.executable)} -m sdetr",
        root=ROOT,
        source=(
            f"--source {shlex.quote(str(config['source']))}"
            if "source" in config
            else ""
        ),
    shell:
        "{params.sdetr} prepare coco --root {params.root:q} {params.source} 2>&1 | tee -i {log:q}"
