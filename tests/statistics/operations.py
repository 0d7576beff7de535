"""Operations of a training step on batches as the paper's augmentation draws them, by what becomes of padding.

``masked``: layers compute on it, as in the reference code; ``batch``: stages do not, as here; ``image``: nor does the
backbone, with the recipe's ``padding: image``.

    python -m tests.statistics.operations --annotations instances_train2017.json --batches 10

Only the sizes of the images are read. Convolutions and matrix products of forward and backward pass count, those of
the losses do not; a multiply and its addition are two operations. Calls are those of torch's operators in the same
passes in mixed precision, views left out: about what a host must launch on a GPU, but for dropout and the losses. Casts
are those of a CPU. Attention on packed images is counted as the one kernel that a GPU has for it.

The least milliseconds are a bound for these calls, not an estimate: of each the longer of its operations at
``--tflops`` and of the bytes of its arguments and results at ``--gigabytes``, as if it ran at the whole of a rate that
the maker states (an H200, bfloat16 without sparsity, unless told otherwise), one after the other, nothing stayed in a
cache, and the host took no time. A compiler that fuses calls can go below it.
"""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from sdetr.architectures import architecture
from sdetr.benchmark.input import clone, paper_transforms
from sdetr.benchmark.plain_model import make_plain
from sdetr.config import TrainTransforms
from sdetr.data.coco import read_annotations
from sdetr.data.transforms import train_edits
from sdetr.detector import create_detector
from sdetr.evaluation.cost import gflops
from sdetr.models import attention
from sdetr.models.stacked import StackedDETR
from sdetr.structures import Target

_WAYS = ("masked", "batch", "image")
_NO_WORK = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_log = logging.getLogger(__name__)


def drawn_size(size: tuple[int, int], transforms: TrainTransforms, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of a training image after augmentation."""
    none = torch.zeros(0, dtype=torch.int64)
    target = Target(torch.zeros(0, 4), none, torch.zeros(0), none, 0, size, size)
    return train_edits(target, transforms, rng)[1].size


def image_share(sizes: list[tuple[int, int]]) -> float:
    """How much of a padded batch is image."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    return sum(h * w for h, w in sizes) / (len(sizes) * height * width)


def new_detector(name: str, way: str) -> StackedDETR:
    """Without dropout, which a CPU computes in another way than a GPU."""
    config = architecture(name, num_queries=100, dropout=0.0, backbone_weights="none")
    detector = create_detector(config.model_copy(update={"padding": "image" if way == "image" else "batch"}), 91)
    assert isinstance(detector, StackedDETR)
    if way == "masked":
        make_plain(detector)
    return detector.train()


def pass_both_ways(detector: StackedDETR, sizes: list[tuple[int, int]]) -> None:
    """Forward and backward pass of images, whose gradients are added to no others, as in a training step."""
    detector.zero_grad()
    prediction = detector([torch.empty(3, *size) for size in sizes])
    (prediction.logits.sum() + prediction.boxes.sum()).backward()


def step_gflop(detector: StackedDETR, sizes: list[tuple[int, int]]) -> float:
    """1e9 operations per image of a step, a multiply and its addition counted as two."""
    return 2 * gflops(lambda: pass_both_ways(detector, sizes)) / len(sizes)


def is_work(function: Any) -> bool:
    """Whether an operator computes or moves anything; views, and what only takes memory, do not."""
    name = function.name().removeprefix("aten::").partition(".")[0]
    return function.namespace == "aten" and not function.is_view and name not in _NO_WORK


class Calls(TorchDispatchMode):
    """Counts calls of operators that do work."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += is_work(function)
        return function(*args, **(kwargs or {}))


class LeastTime(TorchDispatchMode):
    """Adds up how long a device must take at least, call by call."""

    def __init__(self, flop_per_second: float, bytes_per_second: float) -> None:
        super().__init__()
        self.flop_per_second, self.bytes_per_second = flop_per_second, bytes_per_second
        self.seconds = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if is_work(function):
            moved = sum(x.nbytes for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor))
            flop = _flop(function, args, kwargs or {}, result)
            self.seconds += max(flop / self.flop_per_second, moved / self.bytes_per_second)
        return result


def _flop(function: Any, args: Any, kwargs: Any, result: Any) -> float:
    """Of convolutions, matrix products and fused attention, whose backward pass makes its matrix again."""
    aten = torch.ops.aten
    if function is aten._scaled_dot_product_flash_attention_for_cpu.default:
        return float(sdpa_flop_count(*(x.shape for x in args[:3])))
    if function is aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
        return float(sdpa_backward_flop_count(*(x.shape for x in args[:4])))
    count = flop_registry.get(function._overloadpacket)
    return 0.0 if count is None else float(count(*args, **kwargs, out_val=result))


def least_ms(detector: StackedDETR, sizes: list[tuple[int, int]], rates: tuple[float, float]) -> float:
    """Milliseconds per image of a step in mixed precision, if each call ran at a whole rate (see above)."""
    with LeastTime(*rates) as least, torch.autocast("cpu", torch.bfloat16):
        pass_both_ways(detector, sizes)
    return 1000 * least.seconds / len(sizes)


def step_calls(detector: StackedDETR, sizes: list[tuple[int, int]]) -> int:
    """Calls of a step in mixed precision."""
    one_kernel = patch.object(attention, "is_one_kernel", return_value=True)
    with one_kernel, Calls() as calls, torch.autocast("cpu", torch.bfloat16):
        pass_both_ways(detector, sizes)
    return calls.count


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="images per batch")
    parser.add_argument("--tflops", type=float, default=989, help="1e12 operations per second of the device")
    parser.add_argument("--gigabytes", type=float, default=4800, help="1e9 bytes per second of its memory")
    options = parser.parse_args()
    rates = (1e12 * options.tflops, 1e9 * options.gigabytes)
    images = [(image.height, image.width) for image in read_annotations(options.annotations).images]
    transforms, rng = paper_transforms(clone()), np.random.default_rng(0)
    batches = {
        count: [
            [drawn_size(images[i], transforms, rng) for i in rng.integers(len(images), size=count)]
            for _ in range(options.batches)
        ]
        for count in options.sizes
    }
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = [f"{way}_{what}" for what in ("gflop_per_image", "calls", "least_ms_per_image") for way in _WAYS]
    counts = (step_gflop, step_calls, partial(least_ms, rates=rates))
    _log.info("detector,batch_size,batches,image_share,%s", ",".join(names))
    for name in ("sdetr_r50", "detr_r50"):
        with FakeTensorMode():
            ways = [new_detector(name, way) for way in _WAYS]
            for count, drawn in batches.items():
                rows = [[image_share(sizes), *(of(way, sizes) for of in counts for way in ways)] for sizes in drawn]
                share, *means = np.mean(rows, axis=0)
                _log.info("%s,%d,%d,%.2f,%s", name, count, len(drawn), share, ",".join(f"{mean:.4g}" for mean in means))


if __name__ == "__main__":
    main()
