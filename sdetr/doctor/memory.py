"""The memory of a training step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from sdetr.config import Recipe
from sdetr.data.coco import CocoImages
from sdetr.doctor.finding import Finding, guarded
from sdetr.workload import Data, grouped, part_of_one_gpu, threads_of, without_pretrained_weights, workloads
from sdetr.worst_step import MemoryReport, left_out, measure_worst_step


def worst_steps(data: Data) -> Iterator[Finding]:
    """Whether the training step that needs the most memory fits, once per recipe."""
    suite = data.plan.suite
    if suite.gpus > torch.cuda.device_count():
        yield Finding("WARNING", "memory", "not measured: the suite's GPUs are not visible")
        return
    for group in grouped([load for load in workloads(data.plan) if load.split is not None]).values():
        load = group[0]
        subject = "memory, " + ", ".join(member.run for member in group)
        recipe = part_of_one_gpu(without_pretrained_weights(load.recipe), suite.gpus)
        images = data.images(load.images_of, recipe)
        subject += left_out(recipe, suite.gpus)
        yield from guarded(subject, partial(_worst_step, subject, recipe, images, suite.gpus, threads_of(load, suite)))


def _worst_step(subject: str, recipe: Recipe, images: CocoImages, gpus: int, threads: int) -> Iterator[Finding]:
    report = measure_worst_step(recipe, images, gpus, threads)
    yield memory_finding(subject, report, recipe.training.batch_size)


def memory_finding(subject: str, report: MemoryReport, batch_size: int) -> Finding:
    """What the worst step means for a recipe of this batch size."""
    size = f"up to {report.height} pixels high and {report.width} wide"
    best = report.largest
    if best is not None and best.batch_size == batch_size:
        text = f"{batch_size} images {size} take {best.peak_gb:.2f} GB and {best.seconds:.1f} s a step"
        return Finding("ok", subject, text)
    fitted = "not even one image fits"
    if best is not None:
        fitted = f"{best.batch_size} ({best.peak_gb:.2f} GB, {best.seconds:.1f} s) fit"
    reason = report.failure or "the GPU's memory is full"
    if report.expected_gb is not None:
        reason = f"about {report.expected_gb:.1f} GB would be needed and are not free"
    text = f"{batch_size} images {size} do not fit: {reason}; {fitted}; make training.batch_size smaller"
    return Finding("ERROR", subject, text)
