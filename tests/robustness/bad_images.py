"""Images that are broken, odd, or something else, through `sdetr check`, which decodes each of them."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from sdetr.data.coco import ImageRecord, read_image
from tests.robustness.doors import Case
from tests.robustness.mutations import cuts, flips

HEIGHT, WIDTH = 48, 64
# A JPEG is decoded by two builds of libjpeg-turbo, whose colours differ by rounding; other kinds are exact.
JPEG_BOUND, EXACT = 4, 0
Write = Callable[[Path], None]


def picture(mode: str = "RGB") -> Image.Image:
    """A smooth picture with some texture."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([4 * x, 5 * y, 128 + 60 * np.sin(x / 5) * np.cos(y / 7)], axis=2).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def header_cases(seed: int, count: int) -> Iterator[Case]:
    """Everything: files that are images and those that are not."""
    for name, content, bound, refused in _odd_images():
        yield _case(name, lambda path, content=content: path.write_bytes(content) and None, bound, refused)
    for name, write in _no_images():
        yield _case(name, write, EXACT, True)
    good = {
        "a JPEG": (saved(picture(), "JPEG", quality=90), JPEG_BOUND),
        "a progressive JPEG": (saved(picture(), "JPEG", progressive=True), JPEG_BOUND),
        "a PNG": (saved(picture(), "PNG"), EXACT),
        "a WebP": (saved(picture(), "WEBP", lossless=True), EXACT),
    }
    for kind, (content, bound) in good.items():
        for name, spoilt in cuts(content, count, seed):
            yield _case(f"{kind}, {name}", lambda path, c=spoilt: path.write_bytes(c) and None, bound, None)
        for name, spoilt in flips(content, count, seed):
            yield _case(f"{kind}, {name}", lambda path, c=spoilt: path.write_bytes(c) and None, bound, None)


def _case(name: str, write: Write, bound: int | None, refused: bool | None) -> Case:
    """``bound``: largest difference from Pillow's pixels, of 0..255; None where two decoders may mend otherwise."""

    def arrange(folder: Path) -> Sequence[str]:
        (folder / "images").mkdir()
        (folder / "images" / "2.jpg").write_bytes(b"")
        record = {"id": 1, "file_name": "1.jpg", "height": HEIGHT, "width": WIDTH}
        (folder / "a.json").write_text(
            json.dumps({"images": [record], "annotations": [], "categories": [{"id": 1, "name": "a"}]})
        )
        split = {"annotations": "a.json", "images": "images"}
        dataset = {"kind": "coco", "name": "bad", "root": str(folder), "train": split, "val": split, "monitor": split}
        (folder / "dataset.yaml").write_text(json.dumps(dataset))
        write(folder / "images" / "1.jpg")
        return ["check", "--dataset", str(folder / "dataset.yaml"), "--out", str(folder / "out.json")]

    return Case(name, arrange, "1.jpg", refused, None if bound is None else lambda folder: _differs(folder, bound))


def _differs(folder: Path, bound: int) -> str | None:
    """Hold the decoded pixels against Pillow's, as they are stored, without rotation."""
    path = folder / "images" / "1.jpg"
    mine = read_image(path, ImageRecord(1, "1.jpg", HEIGHT, WIDTH), folder / "a.json").permute(1, 2, 0).numpy()
    with Image.open(path) as image:
        reference = np.asarray(image.convert("RGB"))
    largest = int(np.abs(mine.astype(int) - reference).max())
    return None if largest <= bound else f"differs from Pillow by up to {largest} of 255"


def _odd_images() -> Iterator[tuple[str, bytes, int, bool | None]]:
    """Name, content, bound, and whether it must be refused, where only one answer is right."""
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        yield f"JPEG, EXIF rotation {orientation}", saved(picture(), "JPEG", exif=exif), JPEG_BOUND, False
        yield f"PNG, EXIF rotation {orientation}", saved(picture(), "PNG", exif=exif), EXACT, False
    yield "a PNG that is called .jpg", saved(picture(), "PNG"), EXACT, False
    yield "a GIF that is called .jpg", saved(picture("P"), "GIF"), EXACT, True
    yield "a WebP that is called .jpg", saved(picture(), "WEBP", lossless=True), EXACT, False
    yield "a lossy WebP", saved(picture(), "WEBP"), JPEG_BOUND, False
    for name, options in {
        "progressive": {"progressive": True},
        "without subsampling": {"subsampling": 0},
        "of quality 1": {"quality": 1},
        "with restart markers": {"restart_marker_blocks": 1},
        "with a comment": {"comment": b"<script>"},
        "with a broken colour profile": {"icc_profile": b"no profile"},
        "with a broken EXIF block": {"exif": b"Exif\0\0broken"},
    }.items():
        yield f"a JPEG {name}", saved(picture(), "JPEG", **options), JPEG_BOUND, False
    yield "a grey JPEG", saved(picture("L"), "JPEG"), JPEG_BOUND, False
    yield "a CMYK JPEG", saved(picture("CMYK"), "JPEG"), JPEG_BOUND, None
    yield "a JPEG of 1 bit", saved(picture("1").convert("L"), "JPEG"), JPEG_BOUND, False
    yield "a JPEG after which more follows", saved(picture(), "JPEG") + b"more" * 100, JPEG_BOUND, False
    for mode in ("L", "1", "P", "RGBA", "LA"):
        yield f"a PNG of mode {mode}", saved(picture(mode), "PNG"), EXACT, False
    for mode in ("I;16",):
        yield f"a PNG of mode {mode}", saved(picture("L").convert("I").convert(mode), "PNG"), EXACT, None
    yield "a PNG of 16 bits a colour", _png(_raw_rows(6), bits=16, colour=2), EXACT, None
    yield "a PNG with a transparent colour", saved(picture(), "PNG", transparency=(0, 0, 0)), EXACT, False
    yield "a palette with transparency", saved(picture("P"), "PNG", transparency=bytes(range(256))), EXACT, False
    yield "an interlaced PNG", _png(b"", interlaced=True), EXACT, None
    frames = [picture(), picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    for kind in ("GIF", "WEBP", "PNG"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, loop=0)
        yield f"an animated {kind}", content, JPEG_BOUND if kind == "WEBP" else EXACT, None
    yield "a picture of two, for two eyes (MPO)", _two_pictures(frames), JPEG_BOUND, None
    for kind in ("BMP", "TIFF", "PPM", "TGA", "ICO", "PCX", "SGI", "PDF", "EPS"):
        yield f"a {kind}", saved(picture(), kind), EXACT, None
    for width, height in ((WIDTH + 1, HEIGHT), (HEIGHT, WIDTH), (1, 1), (WIDTH * 2, HEIGHT * 2)):
        yield f"an image of {width} x {height}", saved(picture().resize((width, height)), "PNG"), EXACT, True
    yield "a bomb of 30,000 x 30,000", _png(b"", size=(30_000, 30_000)), EXACT, True
    yield "a bomb whose header lies", _png(bytes(30_000_000)), EXACT, None
    yield "a PNG of no size", _png(b"", size=(0, 0)), EXACT, True
    yield "a PNG of 2 to the 31", _png(b"", size=(2**31 - 1, 2**31 - 1)), EXACT, True
    yield "a PNG with a bomb of text", _png_with_text(), EXACT, None
    yield "a GIF that says 65535 x 65535", b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20), EXACT, True
    yield "a WebP that says 16384 x 16384", _large_webp(), EXACT, True


def _two_pictures(frames: list[Image.Image]) -> bytes:
    return saved(frames[0], "MPO", save_all=True, append_images=frames[1:])


def _raw_rows(bytes_of_a_pixel: int) -> bytes:
    return b"".join(b"\0" + bytes(i % 256 for i in range(WIDTH * bytes_of_a_pixel)) for _ in range(HEIGHT))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(
    rows: bytes, size: tuple[int, int] = (WIDTH, HEIGHT), bits: int = 8, colour: int = 2, interlaced: bool = False
) -> bytes:
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, int(interlaced))
    content = zlib.compress(rows or bytes(1 + 3 * min(size[0], 30_000)) * min(size[1], 1000), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _png_with_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 100_000_000, zip=True)
    return saved(picture(), "PNG", pnginfo=text)


def _large_webp() -> bytes:
    content = bytearray(saved(picture(), "WEBP"))
    place = content.index(b"\x9d\x01\x2a") + 3
    content[place : place + 4] = struct.pack("<HH", 16383, 16383)
    return bytes(content)


def _no_images() -> Iterator[tuple[str, Write]]:
    contents = {
        "no bytes": b"",
        "one byte": b"\xff",
        "zeros": bytes(10_000),
        "HTML": b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "a ZIP": b"PK\x03\x04" + bytes(100),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"/>',
        "a JPEG's first bytes": b"\xff\xd8\xff",
        "a PNG's first bytes": b"\x89PNG\r\n\x1a\n",
        "a PostScript program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n(x) run\n",
    }
    for name, content in contents.items():
        yield name, lambda path, content=content: path.write_bytes(content) and None
    yield "a folder", lambda path: path.mkdir()
    yield "a pipe", lambda path: os.mkfifo(path)
    yield "a link to a device", lambda path: path.symlink_to("/dev/zero")
    yield "a link to itself", lambda path: path.symlink_to(path)
    yield "a link to nothing", lambda path: path.symlink_to("nowhere")
    yield "missing", lambda _: None
