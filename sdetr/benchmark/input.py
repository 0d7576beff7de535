"""Training images from files to tensors: this project's input against the way that DETR's reference goes.

The reference pipeline is written here from its description (arXiv 2005.12872, appendix A.4): Pillow decodes and
resizes, pixels become floats and are normalised on the CPU, boxes go from transform to transform. Both sides are given
the same random choices.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import sdetr
from sdetr.benchmark.comparison import Comparison, Scale, Side
from sdetr.config import ShortestSide, SplitPaths, TrainTransforms, read_recipe
from sdetr.data.coco import CocoImages
from sdetr.data.decoding import decode_batch, undecoded_sample
from sdetr.data.transforms import train_transform
from sdetr.engine.device import images_to_device
from sdetr.errors import UserError
from sdetr.models.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from sdetr.structures import Batch, Target, UndecodedBatch

_GOAL = 2.0
_SAMPLES = {"small": 8, "full": 200}
_RECIPE = Path("config/recipes/sdetr_r50_150e.yaml")
_IMAGES = Path("tests/golden/coco_sample")
_BATCH_SIZE = 16
# Levels of 255: two decoders and two ways to round, of which a second resize makes at most this.
_LARGEST_PIXEL_DIFFERENCE = 3
_LARGEST_MEAN_DIFFERENCE = 0.01
# Of nvJPEG against libjpeg-turbo, which fill in colours of half the resolution in other ways.
_LARGEST_MEAN_DIFFERENCE_ON_DEVICE = 2.0

Images = TypeVar("Images")


@dataclass(frozen=True)
class Choices:
    """What chance decides for one sample, in the order of `sdetr.data.transforms.train_transform`.

    Attributes:
        flip: mirror left and right.
        first: shortest side of the resize before the crop; None: no crop.
        crop: draws the window for an image of (height, width): top, left, height, width.
        last: draws the shortest side of the last resize.
    """

    flip: bool
    first: int | None
    crop: Callable[[tuple[int, int]], tuple[int, int, int, int]]
    last: Callable[[], int]


def comparisons(device: torch.device, scale: Scale) -> Iterator[Comparison]:
    """Decoding and augmentation of the paper's recipe, on one thread: as it trains, and with floats made on the CPU.

    Args:
        device: a GPU decodes and augments too, and is held against one thread.
        scale: 8 samples, or 200.

    Raises:
        UserError: the package was installed without its recipes and test images.
        RuntimeError: the sides differ in a size, a box, a label, or by more than the bound in a pixel.
    """
    root = clone()
    split = sample_split(root)
    ours, theirs = CocoImages(split, "category_id"), PlainImages.of(split)
    config = paper_transforms(root)
    seeds = range(_SAMPLES[scale])
    check(ours, theirs, config, seeds)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for sample, what, differs in (
            (project_sample, "uint8", "uint8, which the device normalises; "),
            (project_floats, "normalised floats", ""),
        ):
            yield Comparison(
                topic="input",
                case=f"{len(ours)} COCO images, decoded and augmented as SDETR R50 trains, to {what}, 1 thread",
                project=Side("torchvision: decode, uint8 resize", _each(sample, ours, config, seeds)),
                peer=Side("Pillow: decode, resize; floats, normalised", _each(reference_sample, theirs, config, seeds)),
                differs=f"{differs}pixels by up to {_LARGEST_PIXEL_DIFFERENCE} of 255",
                count=len(seeds),
                unit="images per core",
                goal=_GOAL,
            )
        if device.type == "cuda":
            yield on_device(ours, config, seeds, device)
    finally:
        torch.set_num_threads(threads)


def on_device(images: CocoImages, config: TrainTransforms, seeds: range, device: torch.device) -> Comparison:
    """Files read here and decoded and augmented by ``device``, against all of it done here and copied there.

    Raises:
        RuntimeError: the two differ in a size, a box, a label, or by more than the bound in the mean of an image.
    """
    check_on_device(images, config, seeds, device)

    def project() -> None:
        for _ in device_batches(images, config, seeds, device):
            pass

    def peer() -> None:
        for seed in seeds:
            project_sample(images, config, seed)[0].to(device)

    return Comparison(
        topic="input",
        case=f"{len(images)} COCO images, decoded and augmented as SDETR R50 trains, to uint8 on {device.type}",
        project=Side(f"decode: gpu, batches of {_BATCH_SIZE}", project),
        peer=Side("decode: cpu, 1 thread, and a copy", peer),
        differs=f"pixels of an image by up to {_LARGEST_MEAN_DIFFERENCE_ON_DEVICE:g} of 255 in the mean",
        count=len(seeds),
        unit="images",
    )


def device_batches(images: CocoImages, config: TrainTransforms, seeds: range, device: torch.device) -> Iterator[Batch]:
    """The samples of `project_sample`, decoded and augmented on a device, in batches."""
    for first in range(0, len(seeds), _BATCH_SIZE):
        samples = [
            undecoded_sample(images, seed % len(images), config, np.random.default_rng(seed))
            for seed in seeds[first : first + _BATCH_SIZE]
        ]
        undecoded, targets = zip(*samples, strict=True)
        yield decode_batch(UndecodedBatch(list(undecoded), list(targets)), device)


def check_on_device(images: CocoImages, config: TrainTransforms, seeds: range, device: torch.device) -> None:
    """Hold the samples of `device_batches` against those of `project_sample`.

    Raises:
        RuntimeError: they differ in a size, a box, a label, or by more than the bound in the mean of an image.
    """
    found = [
        sample
        for batch in device_batches(images, config, seeds, device)
        for sample in zip(batch.images, batch.targets, strict=True)
    ]
    for seed, (pixels, target) in zip(seeds, found, strict=True):
        expected, reference = project_sample(images, config, seed)
        if pixels.shape != expected.shape or not torch.equal(target.boxes, reference.boxes):
            raise RuntimeError(f"sample {seed}: sizes or boxes differ on {device}")
        if target.size != reference.size or not torch.equal(target.labels, reference.labels):
            raise RuntimeError(f"sample {seed}: sizes or labels differ on {device}")
        mean = (pixels.cpu().float() - expected.float()).abs().mean().item()
        if mean > _LARGEST_MEAN_DIFFERENCE_ON_DEVICE:
            raise RuntimeError(f"sample {seed}: pixels differ by {mean:.2f} in the mean on {device}")


def _each(
    sample: Callable[[Images, TrainTransforms, int], object], images: Images, config: TrainTransforms, seeds: range
) -> Callable[[], None]:
    def call() -> None:
        for seed in seeds:
            sample(images, config, seed)

    return call


@dataclass(frozen=True)
class PlainImages:
    """Images in the order of their ids, each with the annotation file's objects."""

    ids: tuple[int, ...]
    files: tuple[Path, ...]
    objects: tuple[list[dict[str, Any]], ...]

    @classmethod
    def of(cls, split: SplitPaths) -> PlainImages:
        """What an annotation file lists."""
        content = json.loads(split.annotations.read_bytes())
        images = sorted(content["images"], key=lambda image: image["id"])
        return cls(
            tuple(image["id"] for image in images),
            tuple(split.images / image["file_name"] for image in images),
            tuple([o for o in content["annotations"] if o["image_id"] == image["id"]] for image in images),
        )


def clone() -> Path:
    """The clone of the project that this code is in.

    Raises:
        UserError: the package was installed without its recipes and test images.
    """
    root = Path(sdetr.__file__).resolve().parents[1]
    if not (root / _IMAGES).is_dir():
        raise UserError(f"{root}: holds no {_IMAGES}; real images are timed in a clone of the project: run it there")
    return root


def paper_transforms(root: Path) -> TrainTransforms:
    """The augmentation that the paper trains SDETR R50 with."""
    return read_recipe(root / _RECIPE).transforms.train


def sample_split(root: Path) -> SplitPaths:
    """The real COCO images among the tests' files."""
    folder = root / _IMAGES
    return SplitPaths(annotations=folder / "annotations/instances_val2017.json", images=folder / "val2017")


def project_sample(images: CocoImages, config: TrainTransforms, seed: int) -> tuple[Tensor, Target]:
    """Sample number ``seed`` as the loader of this project makes it: uint8."""
    return train_transform(*images.load(seed % len(images)), config, np.random.default_rng(seed))


def project_floats(images: CocoImages, config: TrainTransforms, seed: int) -> tuple[Tensor, Target]:
    """The same, with what the device would do done here: float, normalised."""
    image, target = project_sample(images, config, seed)
    (normalized,) = Normalize()(images_to_device(Batch([image], [target]), torch.device("cpu")))
    return normalized, target


def reference_sample(images: PlainImages, config: TrainTransforms, seed: int) -> tuple[Tensor, Target]:
    """The same, as the reference makes it: float, normalised."""
    index = seed % len(images.files)
    chosen = draw_choices(config, np.random.default_rng(seed))
    with Image.open(images.files[index]) as file:
        image = file.convert("RGB")
    size = image.size
    boxes, labels = _objects(images.objects[index], size)
    if chosen.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([image.width, 0, image.width, 0])
    if chosen.first is not None:
        image, boxes = _resize(image, boxes, chosen.first, None)
        top, left, height, width = chosen.crop((image.height, image.width))
        image = image.crop((left, top, left + width, top + height))
        limit = torch.tensor([width, height], dtype=torch.float32)
        corners = (boxes - torch.tensor([left, top, left, top])).reshape(-1, 2, 2)
        corners = torch.min(corners, limit).clamp(min=0)
        kept = torch.all(corners[:, 1] > corners[:, 0], dim=1)
        boxes, labels = corners.reshape(-1, 4)[kept], labels[kept]
    assert isinstance(config.resize, ShortestSide)
    image, boxes = _resize(image, boxes, chosen.last(), config.resize.longest)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    sides = boxes[:, 2:] - boxes[:, :2]
    return (pixels - mean) / std, Target(
        boxes=boxes,
        labels=labels,
        area=sides.prod(dim=1),
        iscrowd=torch.zeros_like(labels),
        image_id=images.ids[index],
        size=(image.height, image.width),
        original_size=(size[1], size[0]),
    )


def _objects(annotations: list[dict[str, Any]], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes, clipped to an image of (width, height), and labels, without crowds and what has no width or height."""
    kept = [entry for entry in annotations if not entry["iscrowd"]]
    boxes = torch.tensor([entry["bbox"] for entry in kept], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([entry["category_id"] for entry in kept], dtype=torch.int64)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(min=0, max=size[0])
    boxes[:, 1::2].clamp_(min=0, max=size[1])
    good = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
    return boxes[good], labels[good]


def _resize(image: Image.Image, boxes: Tensor, shortest: int, longest: int | None) -> tuple[Image.Image, Tensor]:
    """Scale the shorter side to ``shortest``, or less where the longer would pass ``longest``."""
    width, height = image.size
    smaller, larger = min(width, height), max(width, height)
    if longest is not None and larger / smaller * shortest > longest:
        shortest = round(longest * smaller / larger)
    if smaller == shortest:
        size = (width, height)
    elif width < height:
        size = (shortest, int(shortest * height / width))
    else:
        size = (int(shortest * width / height), shortest)
    scale = torch.tensor([size[0] / width, size[1] / height] * 2)
    return image.resize(size, Image.Resampling.BILINEAR), boxes * scale


def draw_choices(config: TrainTransforms, rng: np.random.Generator) -> Choices:
    """What this project's transforms draw from ``rng``, for the paper's recipe."""
    flip = bool(rng.random() < config.horizontal_flip)
    rng.random()  # the vertical flip, whose probability is 0 here
    first = None
    crop = config.crop
    assert crop is not None
    assert isinstance(crop.resize_first, ShortestSide)
    assert isinstance(config.resize, ShortestSide)
    if rng.random() < crop.probability:
        first = crop.resize_first.shortest[int(rng.integers(len(crop.resize_first.shortest)))]
    sizes = config.resize.shortest

    def window(size: tuple[int, int]) -> tuple[int, int, int, int]:
        height, width = (
            side if side <= crop.smallest else int(rng.integers(crop.smallest, min(side, crop.largest), endpoint=True))
            for side in size
        )
        top = int(rng.integers(size[0] - height, endpoint=True))
        return top, int(rng.integers(size[1] - width, endpoint=True)), height, width

    return Choices(flip, first, window, lambda: sizes[int(rng.integers(len(sizes)))])


def check(images: CocoImages, plain: PlainImages, config: TrainTransforms, seeds: range) -> None:
    """Hold the samples of both sides against each other.

    Raises:
        RuntimeError: they differ in a size, a box, a label, or by more than the bound in a pixel.
    """
    for seed in seeds:
        (ours, target), (theirs, reference) = (
            project_floats(images, config, seed),
            reference_sample(plain, config, seed),
        )
        if target.size != reference.size or not torch.equal(target.labels, reference.labels):
            raise RuntimeError(f"sample {seed}: {target.size} and {reference.size}, or their labels, differ")
        if not torch.equal(target.boxes, reference.boxes):
            raise RuntimeError(f"sample {seed}: boxes differ")
        levels = (ours - theirs).abs() * torch.tensor(IMAGENET_STD)[:, None, None] * 255
        if levels.max() > _LARGEST_PIXEL_DIFFERENCE + 0.01 or levels.mean() > _LARGEST_MEAN_DIFFERENCE:
            raise RuntimeError(f"sample {seed}: pixels differ by {levels.max():.2f}, {levels.mean():.3f} in the mean")
