"""What `decode: gpu` does, on the CPU, where it must be what `decode: cpu` does to the last bit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from sdetr.config import SplitPaths
from sdetr.data import decoding
from sdetr.data.coco import CocoImages
from sdetr.data.decoding import decode_batch
from sdetr.data.loader import training_batches
from sdetr.errors import UserError
from sdetr.structures import Batch, Flip, Stretch, UndecodedBatch, UndecodedImage
from tests.unit.data.builders import COCO_SAMPLE, TRANSFORMS, content, write_split

CPU = torch.device("cpu")
ON_DEVICE = TRANSFORMS.model_copy(update={"decode": "gpu"})
# Name of a file, how it is saved, and whether any decoder of JPEGs takes it.
KINDS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "colour.jpg": ("RGB", {}, True),
    "full_colour.jpg": ("RGB", {"subsampling": 0}, True),
    "progressive.jpg": ("RGB", {"progressive": True}, True),
    "grey.jpg": ("L", {}, True),
    "colour.png": ("RGB", {}, False),
    "grey.png": ("L", {}, False),
    "colour.webp": ("RGB", {}, False),
    "print.jpg": ("CMYK", {}, False),
    "untransformed.jpg": ("RGB", {"keep_rgb": True}, False),
}


@pytest.fixture
def split(tmp_path: Path) -> SplitPaths:
    """Two images of each kind."""
    what = content(images=2 * len(KINDS))
    names = [f"{number}_{name}" for number in range(2) for name in KINDS]
    for image, name in zip(what["images"], names, strict=True):
        image["file_name"] = name
    made = write_split(tmp_path, what)
    photograph = Image.open(COCO_SAMPLE / "val2017/000000006818.jpg").convert("RGB")
    for number, name in enumerate(names):
        mode, options, _ = KINDS[name.split("_", 1)[1]]
        part = photograph.crop((20 * number, 10 * number, 20 * number + 40, 10 * number + 32))
        part.convert(mode).save(made.images / name, **options)
    return made


@pytest.fixture
def images(split: SplitPaths) -> CocoImages:
    return CocoImages(split, "contiguous")


def batches(images: CocoImages, decode: str, **changes: Any) -> list[Batch]:
    settings = {"seed": 3, "epoch": 1, "batch_size": 6, "workers": 0, "device": CPU, **changes}
    return list(training_batches(images, ON_DEVICE.model_copy(update={"decode": decode}), **settings))


def undecoded(images: CocoImages) -> UndecodedBatch:
    loaded = [images.load_undecoded(index) for index in range(len(images))]
    paths = [images.path(index) for index in range(len(images))]
    found = [UndecodedImage(pixels, (), path) for (pixels, _), path in zip(loaded, paths, strict=True)]
    return UndecodedBatch(found, [target for _, target in loaded])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_that_workers_decode_to_the_last_bit(images: CocoImages, workers: int) -> None:
    for epoch in range(2):
        expected, found = batches(images, "cpu", epoch=epoch), batches(images, "gpu", epoch=epoch, workers=workers)
        assert len(found) == len(expected) == 3
        for one, other in zip(expected, found, strict=True):
            assert all(torch.equal(*pair) for pair in zip(one.images, other.images, strict=True))
            for mine, yours in zip(one.targets, other.targets, strict=True):
                assert (mine.image_id, mine.size, mine.original_size) == (
                    yours.image_id,
                    yours.size,
                    yours.original_size,
                )
                for name in ("boxes", "labels", "area", "iscrowd"):
                    assert torch.equal(getattr(mine, name), getattr(yours, name))


def test_only_plain_jpegs_are_handed_over_as_they_are(images: CocoImages) -> None:
    for image, target in zip(undecoded(images).images, undecoded(images).targets, strict=True):
        _, _, plain = KINDS[image.path.name.split("_", 1)[1]]
        assert image.is_file == plain, image.path.name
        if plain:
            assert bytes(image.content.numpy()) == image.path.read_bytes()
        else:
            assert image.content.shape == (3, *target.size)


def test_a_batch_without_a_jpeg_needs_no_decoder(images: CocoImages, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = undecoded(images)
    chosen = [number for number, image in enumerate(batch.images) if not image.is_file]
    monkeypatch.setattr(decoding, "decode_jpeg", None)
    found = decode_batch(
        UndecodedBatch([batch.images[n] for n in chosen], [batch.targets[n] for n in chosen]), CPU
    ).images
    assert all(torch.equal(image, images.load(n)[0]) for image, n in zip(found, chosen, strict=True))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def garble(path: Path) -> None:
    """The same bytes, said to be of another coding."""
    path.write_bytes(path.read_bytes().replace(b"\xff\xc0", b"\xff\xc3", 1))


def widen(path: Path) -> None:
    Image.open(path).resize((41, 32)).save(path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (cut, "image 10 cannot be decoded (Image is incomplete or truncated); copy it again"),
        (garble, "image 10 cannot be decoded on cpu ("),
        (widen, "image 10 is 41 x 32 pixels, but "),
        (Path.unlink, "image 10 of "),
        (lambda path: path.write_text("no image"), "image 10 cannot be decoded: it is no image of kind"),
    ],
)
def test_an_image_that_cannot_be_used_is_named(
    images: CocoImages, harm: Callable[[Path], object], says: str, workers: int
) -> None:
    harm(images.path(0))
    with pytest.raises(UserError) as caught:
        batches(images, "gpu", batch_size=9, workers=workers)
    assert str(caught.value).startswith(f"{images.path(0)}: {says}")
    assert "\n" not in str(caught.value)


def test_a_decoder_that_sees_another_size_than_the_header_says_is_not_believed(images: CocoImages) -> None:
    batch = undecoded(images)
    _, other = CocoImages(write_split(images.path(0).parents[1] / "other", content(side=30)), "contiguous").load(0)
    batch.targets[0] = other
    with pytest.raises(
        UserError, match=r"0_colour.jpg: image 10 is 40 x 32 pixels as cpu decodes it, but its header says 38 x 30; "
    ):
        decode_batch(batch, CPU)


# In torchvision's words: an error within an error, with the place of the inner one. 5 is a full memory, 3 a bad file.
NESTED = (
    "Error while decoding JPEG images: {}\nException raised from decode_images at a.cpp:1 (most recent call first):"
)


@pytest.mark.parametrize(
    ("says", "kind", "alone"),
    [
        ("the decoder is broken", RuntimeError, 8),
        (NESTED.format("CUDA out of memory. Tried to allocate 2.00 GiB"), torch.OutOfMemoryError, 0),
        (NESTED.format("Failed to decode batch: 5"), torch.OutOfMemoryError, 0),
        (NESTED.format("Failed to decode batch: 3"), RuntimeError, 8),
    ],
)
def test_no_image_is_blamed_where_each_alone_can_be_decoded(
    images: CocoImages, monkeypatch: pytest.MonkeyPatch, says: str, kind: type[RuntimeError], alone: int
) -> None:
    decode, calls = decoding.decode_jpeg, []

    def refuse_many(files: list[Tensor], **options: Any) -> list[Tensor]:
        calls.append(len(files))
        if len(files) > 1:
            raise RuntimeError(says)
        found: list[Tensor] = decode(files, **options)
        return found

    monkeypatch.setattr(decoding, "decode_jpeg", refuse_many)
    with pytest.raises(RuntimeError, match=re.escape(says)) as caught:
        decode_batch(undecoded(images), CPU)
    assert type(caught.value) is kind
    assert calls == [8] + alone * [1]


def test_the_whole_batch_is_decoded_at_once_after_what_the_gpu_still_does(
    images: CocoImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    stream = SimpleNamespace(synchronize=lambda: done.append("wait"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: stream)

    def decode(files: list[Tensor], *, mode: object, device: torch.device) -> list[Tensor]:
        done.append(f"{len(files)} files to {mode} on {device}")
        return files

    monkeypatch.setattr(decoding, "decode_jpeg", decode)
    batch = undecoded(images)
    assert decoding._decode_files(batch, torch.device("cuda", 0)) == [i.content for i in batch.images if i.is_file]
    assert done == ["wait", "8 files to ImageReadMode.RGB on cuda:0"]


def test_a_batch_is_pinned_whole_and_keeps_its_edits(images: CocoImages, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []

    def pin_memory(tensor: Tensor, *_: object) -> Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    batch = undecoded(images)
    batch.images[0] = UndecodedImage(batch.images[0].content, (Flip(-1), Stretch(3, 4)), Path("a.jpg"))
    again = batch.pin_memory()
    pixels = [image for image in batch.images if not image.is_file]
    assert len(pinned) == len(pixels) + 4 * len(batch.targets)
    assert again == batch


def test_the_annotation_file_still_decides_the_size(split: SplitPaths) -> None:
    what = json.loads(split.annotations.read_text())
    what["images"][0]["width"] += 1
    split.annotations.write_text(json.dumps(what))
    with pytest.raises(UserError, match=r"0_colour.jpg: image 10 is 40 x 32 pixels, but .* says 41 x 32"):
        CocoImages(split, "contiguous").load_undecoded(0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_decodes_nearly_the_same_pixels(images: CocoImages) -> None:
    batch = undecoded(images)
    found = decode_batch(batch, torch.device("cuda", 0)).images
    for number, (image, pixels) in enumerate(zip(batch.images, found, strict=True)):
        expected, _ = images.load(number)
        assert (pixels.device.type, pixels.dtype, pixels.shape) == ("cuda", torch.uint8, expected.shape)
        difference = (pixels.cpu().float() - expected.float()).abs()
        # Small pictures are all edges, where half the resolution of colours is filled in otherwise.
        assert difference.mean() < (4 if image.is_file else 0.001), image.path.name
        if "grey" in image.path.name:
            assert torch.equal(pixels[0], pixels[1])
            assert torch.equal(pixels[0], pixels[2])
