"""The jobs of a run, from files to files: pretrain, train, predict. Engine, data and scoring meet only here."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from sdetr.config import CocoDataset, Recipe, ShapesDataset
from sdetr.data.coco import CocoImages
from sdetr.data.transforms import test_transform
from sdetr.detector import DetectorModule, create_detector
from sdetr.engine.device import prepare_device
from sdetr.engine.predict import predict
from sdetr.engine.train import Monitor, Trainer, seed_step
from sdetr.errors import UserError
from sdetr.evaluation.coco_metrics import evaluate
from sdetr.evaluation.cost import device_name, gflops, peak_memory_gb, trainable_parameters
from sdetr.evaluation.results_file import write_results
from sdetr.files import atomic_path, write_json
from sdetr.models.backbone import load_exactly, read_state_dict

_GFLOPS_IMAGES = 20


@dataclass(frozen=True)
class Job:
    """What a job computes, on which data, where it writes and on what it runs."""

    recipe: Recipe
    dataset: CocoDataset | ShapesDataset
    folder: Path
    gpus: int
    threads: int
    workers: int

    def images(self, split: Literal["train", "val", "monitor"]) -> CocoImages:
        """A split with labels in the recipe's numbering."""
        return CocoImages(self.dataset.split(split), self.recipe.label_numbering)


@dataclass(frozen=True)
class RunIdentity:
    """What the tables call a run; ``recipe`` is None where there is none."""

    suite: str
    run: str
    recipe: str | None
    seed: int


def pretrain_backbone(job: Job, suite: str, seed: int) -> None:
    """Train the pretraining recipe on the ``pretraining`` split; its backbone goes to ``backbone.pt``."""
    if not isinstance(job.dataset, ShapesDataset):
        raise UserError(f"data set {job.dataset.name} has no pretraining split; set the suite's pretraining to null")
    device = prepare_device(job.gpus, job.threads)
    images = CocoImages(job.dataset.split("pretraining"), job.recipe.label_numbering)
    detector = _new_detector(job.recipe, images, seed, "none")
    inputs = run_inputs(job.dataset.split("pretraining").annotations, None)
    trainer = _trainer(job, detector, images, f"{suite}/pretraining", seed, inputs, device, monitor=None)
    trainer.run()
    backbone = getattr(detector, "backbone", None)
    if backbone is None:
        raise UserError("pretraining.recipe: its detector has no backbone to hand on; name a recipe that pretrains one")
    with atomic_path(job.folder / "backbone.pt") as temporary:
        torch.save({name: value.cpu() for name, value in backbone.state_dict().items()}, temporary)
    trainer.finish()


def train_run(job: Job, identity: RunIdentity, backbone_weights: Path | None) -> None:
    """Train one run; writes ``weights.pt`` and, last of all, ``train.json``."""
    device = prepare_device(job.gpus, job.threads)
    images = job.images("train")
    weights = None if backbone_weights is None else str(backbone_weights)
    detector = _new_detector(job.recipe, images, identity.seed, weights)
    name = f"{identity.run} seed {identity.seed}"
    inputs = run_inputs(job.dataset.split("train").annotations, backbone_weights)
    trainer = _trainer(job, detector, images, name, identity.seed, inputs, device, _monitor(job, device))
    result = trainer.run()
    path = job.folder / "weights.pt"
    with atomic_path(path) as temporary:
        torch.save({name: value.cpu().contiguous() for name, value in detector.state_dict().items()}, temporary)
    write_json(
        job.folder / "train.json",
        {
            **asdict(identity),
            "model": job.recipe.model,
            "origin": "trained_here",
            "source": job.recipe.source,
            "epochs": round(result.epochs, 4),
            "steps": result.steps,
            "batch_size": job.recipe.training.batch_size,
            "train_minutes": result.seconds / 60,
            "images_per_second_train": result.images_per_second,
            "peak_memory_gb": peak_memory_gb(device),
            "trainable_parameters": trainable_parameters(detector),
            "dropped_boxes": images.dropped_boxes,
            "device": device_name(device),
            "precision": job.recipe.training.precision,
            "git_commit": git_commit(),
            "recipe_sha256": job.recipe.sha256(),
            "weights_sha256": sha256(path),
        },
    )
    trainer.finish()


def run_inputs(annotations: Path, backbone_weights: Path | None) -> dict[str, str]:
    """Hashes of the files that a training starts from: its checkpoints belong to them."""
    inputs = {"annotations": sha256(annotations)}
    if backbone_weights is not None:
        inputs["backbone_weights"] = sha256(backbone_weights)
    return inputs


def predict_run(job: Job, weights: Path) -> None:
    """Detect on the val split; writes ``detections.json`` and, last of all, ``predict.json``."""
    device = prepare_device(job.gpus, job.threads)
    images = job.images("val")
    detector = _new_detector(job.recipe, images, 0, "none")
    load_exactly(detector, read_state_dict(weights), weights)
    detector.to(device).to(memory_format=_layout(job.recipe))  # type: ignore[call-overload]
    predictions = predict(detector, job.recipe, images, device, job.workers)
    write_results(job.folder / "detections.json", predictions.results)
    write_json(
        job.folder / "predict.json",
        {
            "eval_batch_size": job.recipe.evaluation.batch_size,
            "eval_precision": job.recipe.evaluation.precision,
            "images": len(images),
            "images_per_second_infer": predictions.images_per_second,
            "gflops": _mean_gflops(detector, job.recipe, images, device),
            "device": device_name(device),
        },
    )


def _new_detector(recipe: Recipe, images: CocoImages, seed: int, backbone_weights: str | None) -> DetectorModule:
    """The recipe's detector with weights drawn by ``seed``; ``backbone_weights`` replaces those of the recipe."""
    config = recipe.detector
    backbone = getattr(config, "backbone", None)
    if backbone is not None and backbone_weights is not None:
        config = config.model_copy(update={"backbone": backbone.model_copy(update={"weights": backbone_weights})})
    seed_step(seed, 0)
    return create_detector(config, images.label_map.num_classes)


def _trainer(
    job: Job,
    detector: DetectorModule,
    images: CocoImages,
    name: str,
    seed: int,
    inputs: dict[str, str],
    device: torch.device,
    monitor: Monitor | None,
) -> Trainer:
    return Trainer(
        detector,
        job.recipe,
        images,
        name=name,
        seed=seed,
        inputs=inputs,
        folder=job.folder,
        device=device,
        workers=job.workers,
        monitor=monitor,
    )


def _monitor(job: Job, device: torch.device) -> Monitor:
    """Scores a detector on the monitor split: the learning curve."""
    images, annotations = job.images("monitor"), job.dataset.split("monitor").annotations

    def score(detector: DetectorModule) -> dict[str, float]:
        predictions = predict(detector, job.recipe, images, device, job.workers)
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder) / "detections.json"
            write_results(results, predictions.results)
            return evaluate(annotations, results)

    return score


@torch.no_grad()
def _mean_gflops(detector: DetectorModule, recipe: Recipe, images: CocoImages, device: torch.device) -> float:
    """Mean over evenly spaced images of the val split, each alone and resized as the recipe tests."""
    count = min(_GFLOPS_IMAGES, len(images))
    total = 0.0
    for i in range(count):
        image, target = test_transform(*images.load(i * len(images) // count), recipe.transforms.test)
        pixels, size = image.to(device).float() / 255, torch.tensor([target.original_size], device=device)
        total += gflops(partial(detector.detect, [pixels], size))
    return total / count


def _layout(recipe: Recipe) -> torch.memory_format:
    return torch.channels_last if recipe.training.channels_last else torch.contiguous_format


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_commit() -> str:
    """Commit of the code that runs, with ``-dirty`` if files differ from it; ``unknown`` outside a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "../sdetr", "../baselines")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
