"""The jobs of a run, from files to files: pretrain, train, predict. Engine, data and scoring meet only here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torchvision.transforms.v2.functional import resize

from sdetr import parallel
from sdetr.attempts import Attempt, attempt
from sdetr.config import CocoDataset, Recipe, ShapesDataset
from sdetr.data.coco import CocoImages
from sdetr.data.transforms import Sample, test_transform
from sdetr.detector import DetectorModule, create_detector, with_backbone_weights
from sdetr.engine.checkpoint import save_tensors
from sdetr.engine.device import images_to_device, prepare_device
from sdetr.engine.distributed import joined, share_of
from sdetr.engine.log import write_curve
from sdetr.engine.predict import Predictions, predict
from sdetr.engine.stop import Stop
from sdetr.engine.train import Monitor, Trainer, TrainingResult, seed_step
from sdetr.errors import UserError
from sdetr.evaluation.coco_metrics import evaluate
from sdetr.evaluation.cost import device_name, gflops, peak_memory_gb, trainable_parameters
from sdetr.evaluation.results_file import write_results
from sdetr.files import atomic_path, sha256, write_json
from sdetr.finished import check_trained_on, forget, is_finished, place_for, put_in_place, start_over
from sdetr.models.trained import trained_detector
from sdetr.provenance import Record, git_commit
from sdetr.run_inputs import backbone_file, run_inputs
from sdetr.structures import Batch
from sdetr.suite.checks import check_decoding

_PRETRAINED = ("backbone.pt",)
_TRAINED = ("weights.pt", "train.json", "train.csv")
_GFLOPS_IMAGES = 20
# 480 x 640 pixels, which the paper's recipes resize to 800 x 1066.
_STANDARD_IMAGE = (480, 640)


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


def pretrain_backbone(job: Job, suite: str, seed: int, *, fresh: bool = False) -> None:
    """Train the pretraining recipe on the ``pretraining`` split; its backbone goes to ``backbone.pt``.

    Args:
        job: what to train.
        suite: name of the suite.
        seed: decides the weights at the start, the order of images and their augmentation.
        fresh: start over, whatever was learnt already.
    """
    if not isinstance(job.dataset, ShapesDataset):
        raise UserError(f"data set {job.dataset.name} has no pretraining split; set the suite's pretraining to null")
    split = job.dataset.split("pretraining")
    with _attempt(job, "pretrain", seed=seed, fresh=fresh) as (stop, record):

        def begin() -> dict[str, str] | None:
            check_decoding(job.recipe, job.gpus)
            if fresh:
                start_over(job.folder, _PRETRAINED)
            inputs = run_inputs(split.annotations, None)
            if _is_finished(job, record, "pretrain", seed, inputs, _PRETRAINED):
                return None
            record.describe(run={"suite": suite, "run": "pretraining", "seed": seed}, **_described(job))
            return inputs

        with stop.held():
            if (inputs := parallel.from_main(begin)) is None:
                return
            images = parallel.main_first(lambda: CocoImages(split, job.recipe.label_numbering))
        device = _device(job, record)
        with stop.held():
            detector = _new_detector(job.recipe, images, seed, "none")
            backbone = getattr(detector, "backbone", None)
            if backbone is None:
                raise UserError(
                    "pretraining.recipe: its detector has no backbone to hand on; name a recipe that pretrains one"
                )
            trainer = _trainer(job, detector, images, f"{suite}/pretraining", seed, inputs, device, monitor=None)
        _run(trainer, stop, record)
        with stop.held():
            write = partial(_save_state, backbone, "backbone.pt")
            parallel.on_main(partial(_close, job, trainer, record, _PRETRAINED, write))


def train_run(job: Job, identity: RunIdentity, backbone_weights: Path | None, *, fresh: bool = False) -> None:
    """Train one run; writes ``weights.pt`` and, last of all, ``train.json``.

    Args:
        job: what to train.
        identity: what the tables call it.
        backbone_weights: the suite's own backbone, for recipes that start from it.
        fresh: start over, whatever was learnt already.

    Raises:
        UserError: files that are missing or do not fit; a recipe that starts from another backbone.
    """
    with _attempt(job, "train", seed=identity.seed, fresh=fresh) as (stop, record):

        def begin() -> dict[str, str] | None:
            check_decoding(job.recipe, job.gpus)
            backbone = backbone_file(job.recipe, backbone_weights)
            if backbone_weights is not None:
                forget(backbone_weights.parent, _PRETRAINED)
            if fresh:
                start_over(job.folder, _TRAINED)
            inputs = run_inputs(job.dataset.split("train").annotations, backbone)
            if _is_finished(job, record, "train", identity.seed, inputs, _TRAINED):
                return None
            record.describe(run=asdict(identity), **_described(job))
            return inputs

        with stop.held():
            if (inputs := parallel.from_main(begin)) is None:
                return
            images = parallel.main_first(lambda: job.images("train"))
        device = _device(job, record)
        with stop.held():
            weights = None if backbone_weights is None else str(backbone_weights)
            detector = _new_detector(job.recipe, images, identity.seed, weights)
            name = f"{identity.run} seed {identity.seed}"
            trainer = _trainer(job, detector, images, name, identity.seed, inputs, device, _monitor(job, device))
        result = _run(trainer, stop, record)
        with stop.held():
            write = partial(_write_training, job, identity, detector, images, device, result)
            parallel.on_main(partial(_close, job, trainer, record, _TRAINED, write))


def _write_training(
    job: Job,
    identity: RunIdentity,
    detector: DetectorModule,
    images: CocoImages,
    device: torch.device,
    result: TrainingResult,
    place: Path,
) -> None:
    _save_state(detector, "weights.pt", place)
    write_curve(place / "train.csv", result.curve)
    write_json(
        place / "train.json",
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
            "gpus": job.gpus,
            "processes": parallel.processes(),
            "threads": job.threads,
            "precision": job.recipe.training.precision,
            "padding": getattr(job.recipe.detector, "padding", None),
            "pad_multiple": getattr(job.recipe.detector, "pad_multiple", None),
            "compile": getattr(job.recipe.detector, "compile", "none"),
            "decode": job.recipe.transforms.train.decode,
            "git_commit": git_commit(),
            "recipe_sha256": job.recipe.sha256(),
            "weights_sha256": sha256(place / "weights.pt"),
        },
    )


@contextmanager
def _attempt(job: Job, name: str, **facts: Any) -> Iterator[Attempt]:
    """An attempt at a job, with all its processes."""
    with joined(job.gpus):
        settings = {"gpus": job.gpus, "processes": parallel.processes(), "threads": job.threads, "workers": job.workers}
        with attempt(job.folder, name, {**settings, **facts}) as begun:
            yield begun


def _described(job: Job) -> dict[str, Any]:
    recipe = job.recipe
    return {"dataset": job.dataset.name, "recipe_sha256": recipe.sha256(), "recipe": recipe.model_dump(mode="json")}


def _workers(job: Job) -> int:
    return share_of(job.workers, parallel.place().local_processes)


def _device(job: Job, record: Record) -> torch.device:
    """The job's device, on record."""
    device = prepare_device(job.gpus, share_of(job.threads, parallel.place().local_processes))
    record.note(device=device_name(device))
    if device.type == "cuda":
        memory = round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1)
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        record.note(cuda=torch.version.cuda, cudnn=cudnn, gpu_memory_gb=memory)
    return device


def _is_finished(
    job: Job, record: Record, name: str, seed: int, inputs: Mapping[str, str], files: Sequence[str]
) -> bool:
    """Whether this very training has ended already; what decides it goes on record."""
    decided_by = {"recipe_sha256": job.recipe.sha256(), "seed": seed, "inputs": dict(inputs)}
    record.note(**decided_by)
    if is_finished(job.folder, files, record, name, decided_by, job.recipe.model_dump(mode="json")):
        record.end("finished already")
        return True
    return False


def _run(trainer: Trainer, stop: Stop, record: Record) -> TrainingResult:
    trainer.resume()
    record.note(first_step=trainer.step)
    try:
        return trainer.run(stop)
    finally:
        record.note(last_step=trainer.step)


def _save_state(module: nn.Module, name: str, place: Path) -> None:
    with atomic_path(place / name) as temporary, temporary.open("wb") as file:
        save_tensors({name: value.cpu().contiguous() for name, value in module.state_dict().items()}, file)


def _close(job: Job, trainer: Trainer, record: Record, files: Sequence[str], write: Callable[[Path], None]) -> None:
    """Write what a training ends with; nothing is thrown away before what follows from it is safe."""
    place = place_for(job.folder, files)
    write(place)
    record.finish(outputs={name: sha256(place / name) for name in files})
    trainer.finish()
    put_in_place(job.folder, files)


def predict_run(job: Job, weights: Path) -> None:
    """Detect on the val split; writes ``detections.json`` and, last of all, ``predict.json``."""
    with _attempt(job, "predict") as (stop, record):
        parallel.on_main(lambda: check_trained_on(job.folder, record, job.dataset.split("train").annotations))
        parallel.on_main(lambda: forget(job.folder, _TRAINED))
        device = _device(job, record)
        with stop.held():
            images = parallel.main_first(lambda: job.images("val"))
            # Should a detector draw numbers where it detects, it draws the same ones each time.
            seed_step(0, 0)
            detector = trained_detector(job.recipe, images.label_map.num_classes, weights)
            detector.to(device).to(memory_format=_layout(job.recipe))  # type: ignore[call-overload]
        predictions = predict(detector, job.recipe, images, device, _workers(job))
        parallel.on_main(partial(_write_predictions, job, detector, images, device, predictions))
        parallel.on_main(
            lambda: record.note(
                recipe_sha256=job.recipe.sha256(),
                inputs={"weights.pt": sha256(weights), "annotations": sha256(job.dataset.split("val").annotations)},
                outputs={"detections.json": sha256(job.folder / "detections.json")},
            )
        )


def _write_predictions(
    job: Job, detector: DetectorModule, images: CocoImages, device: torch.device, predictions: Predictions
) -> None:
    # Before operations are counted: that runs plain attention, which holds more.
    peak = peak_memory_gb(device)
    write_results(job.folder / "detections.json", predictions.results)
    standard = _standard_image(images, job.recipe)
    write_json(
        job.folder / "predict.json",
        {
            "eval_batch_size": job.recipe.evaluation.batch_size,
            "eval_precision": job.recipe.evaluation.precision,
            "images": len(images),
            "images_per_second_infer": predictions.images_per_second,
            "peak_memory_gb_infer": peak,
            "parameters": sum(parameter.numel() for parameter in detector.parameters()),
            "gflops": _mean_gflops(detector, job.recipe, images, device),
            "gflops_standard_size": _gflops(detector, standard, device),
            "standard_size": f"{standard[0].shape[-2]} x {standard[0].shape[-1]}",
            "device": device_name(device),
        },
    )


def _new_detector(recipe: Recipe, images: CocoImages, seed: int, backbone_weights: str | None) -> DetectorModule:
    """The recipe's detector with weights drawn by ``seed``; ``backbone_weights`` replaces those of the recipe."""
    config = recipe.detector if backbone_weights is None else with_backbone_weights(recipe.detector, backbone_weights)
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
        workers=_workers(job),
        monitor=monitor,
    )


def _monitor(job: Job, device: torch.device) -> Monitor:
    """Scores a detector on the monitor split: the learning curve."""
    images, annotations = parallel.main_first(lambda: job.images("monitor")), job.dataset.split("monitor").annotations

    def score(detector: DetectorModule) -> dict[str, float]:
        predictions = predict(detector, job.recipe, images, device, _workers(job))
        return parallel.from_main(partial(_scored, annotations, predictions.results))

    return score


def _scored(annotations: Path, results: list[dict[str, Any]]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detections.json"
        write_results(path, results)
        return evaluate(annotations, path)


def _mean_gflops(detector: DetectorModule, recipe: Recipe, images: CocoImages, device: torch.device) -> float:
    """Mean over evenly spaced images of the val split, each alone and resized as the recipe tests."""
    count = min(_GFLOPS_IMAGES, len(images))
    samples = (images.load(i * len(images) // count) for i in range(count))
    return sum(_gflops(detector, test_transform(*each, recipe.transforms.test), device) for each in samples) / count


def _standard_image(images: CocoImages, recipe: Recipe) -> Sample:
    """The first image of the val split, stretched to COCO's commonest size and then resized as the recipe tests.

    Faster R-CNN computes for each proposal, so its operations need an image with something in it.
    """
    image, target = images.load(0)
    stretched = resize(image, list(_STANDARD_IMAGE), antialias=True)
    return test_transform(stretched, replace(target, size=_STANDARD_IMAGE), recipe.transforms.test)


@torch.no_grad()
def _gflops(detector: DetectorModule, sample: Sample, device: torch.device) -> float:
    image, target = sample
    pixels = images_to_device(Batch([image], [target]), device)
    return gflops(partial(detector.detect, pixels, torch.tensor([target.original_size], device=device)))


def _layout(recipe: Recipe) -> torch.memory_format:
    return torch.channels_last if recipe.training.channels_last else torch.contiguous_format
