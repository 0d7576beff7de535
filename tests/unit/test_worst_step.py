"""The largest batch a recipe can meet, and what is said when it does not fit."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sdetr import worst_step
from sdetr.config import CustomDetectorConfig, Recipe, ShapesDataset
from sdetr.data.coco import CocoImages
from sdetr.data.transforms import train_transform
from sdetr.detector import DetectorModule
from sdetr.doctor.memory import memory_finding
from sdetr.structures import Batch
from sdetr.worst_step import Attempt, MemoryReport, largest_sides, left_out, measure_worst_step, worst_batch
from tests import small
from tests.unit.data.builders import coco_sample

DETR_RESIZE = {"shortest": [480, 640, 800], "longest": 1333}
DETR_CROP = {
    "probability": 0.5,
    "resize_first": {"shortest": [400, 500, 600], "longest": None},
    "smallest": 384,
    "largest": 600,
}
CPU = torch.device("cpu")


def detr_like(**changes: Any) -> Recipe:
    settings = {"transforms__train__resize": DETR_RESIZE, "transforms__train__crop": DETR_CROP, **changes}
    return small.recipe("demo_detr", **settings)


@pytest.fixture(scope="module")
def real_images() -> CocoImages:
    return CocoImages(coco_sample("val2017"), "contiguous")


@pytest.mark.parametrize(
    "changes", [{}, {"transforms__train__crop": None}, {"transforms__train__resize": {"square": 64}}]
)
def test_no_augmented_image_is_larger_than_the_largest_sides(real_images: CocoImages, changes: Any) -> None:
    recipe = detr_like(**changes)
    height, width = largest_sides(real_images, recipe)
    seen = []
    for index in range(len(real_images)):
        sample = real_images.load(index)
        for seed in range(40):
            seen.append(train_transform(*sample, recipe.transforms.train, np.random.default_rng([seed, index]))[1].size)
    assert max(size[0] for size in seen) <= height
    assert max(size[1] for size in seen) <= width
    assert max(max(size) for size in seen) >= 0.9 * max(height, width)  # and the bound is no idle one


def test_upright_and_lying_images_are_padded_to_both_long_sides(small_shapes: ShapesDataset) -> None:
    images = SimpleNamespace(sizes=[(480, 640), (640, 480), (427, 640)])
    recipe = detr_like(transforms__train__crop=None)
    assert largest_sides(images, recipe) == (1066, 1199)  # type: ignore[arg-type]
    flat = SimpleNamespace(sizes=[(100, 640)])
    assert largest_sides(flat, recipe) == (208, 1331)  # type: ignore[arg-type]
    assert largest_sides(CocoImages(small_shapes.split("train"), "contiguous"), small.recipe("demo_detr")) == (64, 64)


def test_the_worst_batch_is_as_large_and_as_full_as_it_can_be(real_images: CocoImages) -> None:
    sides = largest_sides(real_images, detr_like())
    batch = worst_batch(real_images, detr_like(), sides, 4)
    sizes = [tuple(image.shape[1:]) for image in batch.images]
    assert (max(size[0] for size in sizes), max(size[1] for size in sizes)) == sides
    assert len(set(sizes)) > 1  # else a detector that skips its padding mask for equal sizes would look too good
    assert len(batch.targets[0].boxes) == real_images.object_counts.max()
    assert [target.size for target in batch.targets] == sizes
    one = worst_batch(real_images, detr_like(), sides, 1).images[0]
    assert one.numel() == max(image.numel() for image in batch.images)


@pytest.mark.parametrize("name", ["demo_sdetr", "demo_detr", "demo_faster_rcnn", "demo_backbone"])
def test_the_step_is_run_in_a_process_of_its_own(name: str, small_shapes: ShapesDataset) -> None:
    images = CocoImages(small_shapes.split("train"), "contiguous")
    report = measure_worst_step(small.recipe(name, training__batch_size=3), images, gpus=0, threads=1)
    assert (report.height, report.width, report.failure, report.expected_gb) == (64, 64, None, None)
    assert [attempt.batch_size for attempt in report.attempts] == [2, 3]
    assert all(attempt.peak_gb and attempt.peak_gb > 0.1 for attempt in report.attempts)
    finding = memory_finding("memory", report, 3)
    assert finding.level == "ok"
    assert "3 images up to 64 pixels high and 64 wide" in finding.text


class Suicidal(DetectorModule):
    """Dies as a process does that the system ends for its memory."""

    def __init__(self) -> None:
        super().__init__()
        os.kill(os.getpid(), signal.SIGKILL)


def build_suicidal(_config: CustomDetectorConfig, _classes: int) -> Suicidal:
    return Suicidal()


def test_a_process_that_is_killed_is_reported(small_shapes: ShapesDataset) -> None:
    recipe = small.recipe("demo_backbone", detector__factory=f"{__name__}:build_suicidal")
    report = measure_worst_step(recipe, CocoImages(small_shapes.split("train"), "contiguous"), gpus=0, threads=1)
    finding = memory_finding("memory", report, 4)
    assert finding.level == "ERROR"
    assert "the system killed the process" in finding.text
    assert "not even one image fits" in finding.text


class FullTrainer:
    """Takes ``room`` images; more is too much."""

    def __init__(self, room: int) -> None:
        self.room = room

    def train_step(self, batch: Batch) -> float:
        if len(batch.images) > self.room:
            raise torch.OutOfMemoryError
        return 0.0


class Sent(list[Any]):
    send = list.append


@pytest.mark.parametrize(("room", "tried"), [(16, [16]), (5, [16, 8, 4]), (0, [16, 8, 4, 2, 1])])
def test_a_gpu_is_filled_with_half_as_many_until_they_fit(room: int, tried: list[int], real_images: CocoImages) -> None:
    sent, recipe = Sent(), small.recipe("demo_detr", training__batch_size=16)
    worst_step._run_on_gpu(sent, FullTrainer(room), recipe, real_images, (64, 64), CPU)  # type: ignore[arg-type]
    assert [attempt.batch_size for attempt in sent] == tried
    report = MemoryReport(64, 64, tuple(sent), None, None)
    assert (report.largest.batch_size if report.largest else 0) == (tried[-1] if room else 0)
    finding = memory_finding("memory", report, 16)
    assert finding.level == ("ok" if room == 16 else "ERROR")


def needed(batch: Batch) -> float:
    """1e9 bytes of a model: feature maps of the padded batch, and the attention matrix of each image."""
    sizes = [image.shape[1:] for image in batch.images]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    return 1 + 1e-6 * len(sizes) * height * width + 1e-12 * sum((h * w) ** 2 for h, w in sizes)


@pytest.mark.parametrize(("share_free", "ran"), [(2, [2, 4, 8]), (0.7, [2, 4]), (0.3, [2])])
def test_a_cpu_runs_the_whole_batch_only_if_so_much_is_free(
    share_free: float, ran: list[int], real_images: CocoImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, recipe = Sent(), detr_like(training__batch_size=8)
    sides = largest_sides(real_images, recipe)
    whole = needed(worst_batch(real_images, recipe, sides, 8))
    monkeypatch.setattr(worst_step, "_free_gb", lambda: share_free * whole)
    monkeypatch.setattr(
        worst_step, "_attempt", lambda _trainer, batch, _device: Attempt(len(batch.images), needed(batch), 0.1)
    )
    worst_step._run_on_cpu(sent, FullTrainer(9), recipe, real_images, sides, CPU)  # type: ignore[arg-type]
    assert [item.batch_size for item in sent if isinstance(item, Attempt)] == ran
    if 8 not in ran:
        if 4 in ran:
            assert sent[-1] == pytest.approx(whole)
        else:
            assert sent[-1] > whole
        finding = memory_finding("memory", MemoryReport(*sides, tuple(sent[:-1]), sent[-1], None), 8)
        assert finding.level == "ERROR"
        assert f"about {sent[-1]:.1f} GB would be needed" in finding.text
        assert f"; {ran[-1]} (" in finding.text


def test_what_a_worst_step_does_not_see_is_said() -> None:
    plain, decoding = (small.recipe("demo_detr", transforms__train__decode=where) for where in ("cpu", "gpu"))
    assert left_out(plain, 1) == ""
    assert left_out(plain, 2) == " (each of 2 GPUs, without what they need to talk to each other)"
    assert left_out(decoding, 1) == " (without what decoding images there needs)"
    assert left_out(decoding, 2).endswith("to each other; without what decoding images there needs)")
