"""Pictures of the report: inside the page, with the words that each file carries."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sdetr.errors import UserError

_ORDER = (
    *("claims", "ap_by_size", "learning_curves", "precision_recall", "ablations"),
    *("attention_cost", "qkva_grid", "detections", "scenes"),
)
_SECTIONS = {
    "claims": "claims",
    "ap_by_size": "detectors",
    "learning_curves": "detectors",
    "precision_recall": "detectors",
    "ablations": "ablations",
    "attention_cost": "attention",
    "qkva_grid": "attention",
}
_LAYERS = "qkva_stage"
_LOSSLESS_UP_TO = 160_000
"""Bytes; what is larger without loss is a photograph, which loses nothing that an eye would miss."""
_QUALITIES = (86, 70, 50)
_MOST = 3_400_000
"""Bytes of all pictures; as text in the page they take a third more."""
_DENSITY = 1.3
"""Pixels of a file per pixel of the page: letters are then as large as those of the text."""


@dataclass(frozen=True)
class Picture:
    """A picture of ``figures/``; ``source`` is the whole of it, as a data address."""

    name: str
    section: str
    title: str
    description: str
    source: str
    width: int
    """On the page."""
    height: int


def read_pictures(folder: Path) -> list[Picture]:
    """Every PNG below a folder: the project's own in their order, others by name.

    Photographs are compressed until all pictures together are small enough to be sent as one page.

    Raises:
        UserError: a file that is no picture.
    """
    paths = sorted(folder.rglob("*.png"))
    place = {name: number for number, name in enumerate(_ORDER)}
    paths.sort(key=lambda path: (place.get(path.stem, len(place)), path.stem))
    opened = [_open(path) for path in paths]
    encoded = _encode([image for image, _ in opened])
    return [
        _picture(path.stem, image.size, words, content)
        for path, (image, words), content in zip(paths, opened, encoded, strict=True)
    ]


def _open(path: Path) -> tuple[Image.Image, dict[str, str]]:
    """The picture, and its PNG text."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.convert("RGB"), dict(getattr(image, "text", {}))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no picture ({error}); make the figures again") from error


def _encode(images: Sequence[Image.Image]) -> list[bytes]:
    """As WebP, which every browser shows: smaller than a PNG without loss, and a tenth of it for photographs."""
    encoded = [_webp(image, lossless=True) for image in images]
    photographs = [place for place, content in enumerate(encoded) if len(content) > _LOSSLESS_UP_TO]
    for quality in _QUALITIES:
        for place in photographs:
            # A drawing full of noise can be smaller without loss.
            encoded[place] = min(encoded[place], _webp(images[place], quality=quality), key=len)
        if sum(map(len, encoded)) <= _MOST:
            break
    return encoded


def _webp(image: Image.Image, **options: bool | int) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", **options)
    return file.getvalue()


def _picture(name: str, size: tuple[int, int], words: dict[str, str], content: bytes) -> Picture:
    source = f"data:image/webp;base64,{base64.b64encode(content).decode('ascii')}"
    width, height = (round(side / _DENSITY) for side in size)
    section = "layers" if name.startswith(_LAYERS) else _SECTIONS.get(name, "pictures")
    return Picture(name, section, words.get("Title", name), words.get("Description", ""), source, width, height)
