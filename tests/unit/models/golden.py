"""Golden cases of the reference implementations; the rule that draws their weights is in tests/golden/README.md."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdetr import build_detector
from sdetr.models.reference_weights import load_reference_weights
from sdetr.models.stacked import StackedDETR
from sdetr.structures import Target

FOLDER = Path(__file__).parents[2] / "golden"
CASES = ("sdetr_r50", "detr_r50", "detr_r50_dc5")


@dataclass(frozen=True)
class Golden:
    name: str
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def images(self) -> list[Tensor]:
        return [torch.from_numpy(self.arrays[f"image_{i}"]) for i in range(len(self.facts["image_sizes"]))]

    @property
    def targets(self) -> list[Target]:
        result = []
        for i, (target, size) in enumerate(zip(self.facts["targets"], self.facts["image_sizes"], strict=True)):
            cx, cy, w, h = torch.tensor(target["boxes_cxcywh"]).reshape(-1, 4).unbind(1)
            height, width = size
            boxes = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), 1)
            boxes = boxes * torch.tensor([width, height, width, height])
            labels = torch.tensor(target["labels"])
            zeros = torch.zeros(len(labels))
            result.append(Target(boxes, labels, zeros, zeros.long(), i, size, size))
        return result

    def reference_state(self) -> dict[str, Tensor]:
        return {name: _draw(name, shape, self.facts["seed"]) for name, shape in self.facts["state_dict_shapes"].items()}

    def detector(self, dropout: float = 0.1) -> StackedDETR:
        detector = build_detector(self.name, self.facts["num_classes"], self.facts["num_queries"], dropout)
        assert isinstance(detector, StackedDETR)
        load_reference_weights(detector, {"model": self.reference_state()})
        return detector


def _draw(name: str, shape: list[int], seed: int) -> Tensor:
    generator = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    noise = generator.standard_normal(shape).astype(np.float32)
    last = name.rsplit(".", 1)[-1]
    if last == "running_var":
        value = 1 + 0.1 * np.abs(noise)
    elif len(shape) == 1:
        value = 1 + 0.1 * noise if last == "weight" else 0.1 * noise
    else:
        value = noise / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


def load(name: str) -> Golden:
    facts = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return Golden(name, facts, dict(arrays))
