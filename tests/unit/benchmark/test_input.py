"""Input is timed only where both sides make the same samples of the same random choices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sdetr.benchmark import input as input_pipeline
from sdetr.benchmark.input import (
    PlainImages,
    check,
    comparisons,
    device_batches,
    draw_choices,
    on_device,
    project_floats,
    project_sample,
    reference_sample,
    sample_split,
)
from sdetr.config import read_recipe
from sdetr.data.coco import CocoImages
from sdetr.data.decoding import decode_batch
from sdetr.structures import Batch, UndecodedBatch

ROOT = Path(__file__).parents[3]
SPLIT = sample_split(ROOT)
OURS, PLAIN = CocoImages(SPLIT, "category_id"), PlainImages.of(SPLIT)
PAPER = read_recipe(ROOT / "config/recipes/sdetr_r50_150e.yaml").transforms.train


def test_samples_agree_over_flips_crops_and_sizes() -> None:
    chosen = [draw_choices(PAPER, np.random.default_rng(seed)) for seed in range(24)]
    assert {(choice.flip, choice.first is None) for choice in chosen} == {(a, b) for a in (0, 1) for b in (0, 1)}
    check(OURS, PLAIN, PAPER, range(24))


def test_boxes_are_those_of_the_reference_exactly() -> None:
    for seed in range(24):
        ours, theirs = project_sample(OURS, PAPER, seed)[1], reference_sample(PLAIN, PAPER, seed)[1]
        assert torch.equal(ours.boxes, theirs.boxes)
        assert (ours.size, ours.original_size, ours.image_id) == (theirs.size, theirs.original_size, theirs.image_id)
        assert torch.equal(ours.labels, theirs.labels)


def test_both_ways_are_compared_on_one_thread_and_the_threads_come_back() -> None:
    before = torch.get_num_threads()
    for found in comparisons(torch.device("cpu"), "small"):
        assert torch.get_num_threads() == 1
        assert (found.topic, found.count, found.goal) == ("input", 8, 2.0)
        found.project.call()
        found.peer.call()
    assert torch.get_num_threads() == before


def test_other_pixels_are_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def brighter(*arguments: object) -> object:
        image, target = project_floats(*arguments)  # type: ignore[arg-type]
        return image + 0.1, target

    monkeypatch.setattr(input_pipeline, "project_floats", brighter)
    with pytest.raises(RuntimeError, match="sample 0: pixels differ"):
        check(OURS, PLAIN, PAPER, range(1))


def test_a_device_that_decodes_is_held_against_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two whole batches and a smaller one; the CPU stands for the GPU, and decodes to the last bit as it always does.
    seeds = range(35)
    monkeypatch.setattr(input_pipeline, "_LARGEST_MEAN_DIFFERENCE_ON_DEVICE", 0.0)
    found = on_device(OURS, PAPER, seeds, torch.device("cpu"))
    assert [len(batch.images) for batch in device_batches(OURS, PAPER, seeds, torch.device("cpu"))] == [16, 16, 3]
    assert (found.count, found.goal, found.topic) == (35, None, "input")
    found.project.call()
    found.peer.call()


def test_a_device_whose_pixels_are_too_different_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def brighter(batch: UndecodedBatch, device: torch.device) -> Batch:
        decoded = decode_batch(batch, device)
        return Batch([image.clamp(max=252) + 3 for image in decoded.images], decoded.targets)

    monkeypatch.setattr(input_pipeline, "decode_batch", brighter)
    with pytest.raises(RuntimeError, match=r"sample 0: pixels differ by [23].\d\d in the mean on cpu"):
        on_device(OURS, PAPER, range(1), torch.device("cpu"))


def test_only_a_gpu_is_asked_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(input_pipeline, "on_device", lambda *arguments: asked.append(arguments[-1]))
    assert len(list(comparisons(torch.device("cpu"), "small"))) == 2
    assert len(list(comparisons(torch.device("cuda", 0), "small"))) == 3
    assert asked == [torch.device("cuda", 0)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_nearly_the_samples_of_the_cpu() -> None:
    assert on_device(OURS, PAPER, range(20), torch.device("cuda", 0)).count == 20
