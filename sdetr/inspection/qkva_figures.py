"""Pictures of the QKVA grid: an overview of the last layer of each stage, and a page for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdetr.evaluation.plots_common import Words, picture
from sdetr.files import atomic_path
from sdetr.inspection.mosaics import Sample, attention_sheet, channel_sheet, square_columns, tile_of
from sdetr.inspection.qkva import QKVA
from sdetr.inspection.scene import Scene

_WIDTH = 9.2
# Above every panel; inches.
_TITLE = 0.42
# Brighter is more, in grey print too, and the colour-blind see it alike.
_WEIGHTS = colormaps["inferno"]
# A square root shows weak attention beside strong.
_GAMMA = 0.5
_FRAME = "#56B4E9"
_LETTERS: tuple[Literal["q", "k", "v"], ...] = ("q", "k", "v")
_DOTS_PER_INCH = 160
_MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class _Detail:
    """How much a picture shows: most tiles of A in a row, rows of channels of a single head, most channels in a row."""

    tiles: int
    channel_rows: int
    channel_columns: int


_OVERVIEW = _Detail(tiles=16, channel_rows=8, channel_columns=6)
_PAGE = _Detail(tiles=16, channel_rows=8, channel_columns=12)


def draw_overview(captured: Sequence[QKVA], scene: Scene, title: str, out: Path) -> None:
    """The last encoder layer of each stage, side by side: where a token looks, Q, K and V, and A.

    Args:
        captured: every encoder layer, as `sdetr.inspection.qkva.capture` gives them.
        scene: the image and the point whose token is shown.
        title: what was run on what.
        out: PNG file.
    """
    last = list({item.stage: item for item in captured}.values())
    tall = _aspect(scene)
    heights = [
        _TITLE + tall * _WIDTH / (1 + len(last)),
        _TITLE + max(_channel_aspect(item, _OVERVIEW) for item in last) * _WIDTH / len(last) / 3,
        _TITLE + tall**2 * _WIDTH / len(last),
    ]
    with picture(out, (_WIDTH, 0.3 + sum(heights)), Words(title, _reading(last, scene))) as figure:
        top, middle, bottom = _parts(figure, (3, 1), height_ratios=heights)
        first, *looks = _side_by_side(top, [1] * (1 + len(last)))
        _draw_scene(first, scene)
        for part, item in zip(looks, last, strict=True):
            _draw_looks(part, item, scene)
        columns = [1] * len(last)
        for left, right, item in zip(_side_by_side(middle, columns), _side_by_side(bottom, columns), last, strict=True):
            _draw_channels(left, item, _OVERVIEW, _WIDTH / len(last))
            _draw_attention(right, item, scene, _OVERVIEW, _WIDTH / len(last))
    limit_size(out, _MOST_BYTES)


def draw_layer(item: QKVA, scene: Scene, title: str, out: Path) -> None:
    """One encoder layer with more of its channels and tiles; arguments as of `draw_overview`."""
    tall = _aspect(scene)
    # The image above the token's tiles is then as high as A beside them.
    part = max(0.22, (tall - _TITLE / tall / _WIDTH) / (2 + tall))
    top_height = 2 * (_TITLE + tall * part * _WIDTH)
    heights = [top_height, _TITLE + _channel_aspect(item, _PAGE) * _WIDTH / 3]
    with picture(out, (_WIDTH, 0.3 + sum(heights)), Words(title, _reading([item], scene))) as figure:
        top, bottom = _parts(figure, (2, 1), height_ratios=heights)
        left, right = _side_by_side(top, [part, 1 - part])
        above, below = _parts(left, (2, 1))
        _draw_scene(above, scene)
        _draw_looks(below, item, scene)
        _draw_attention(right, item, scene, _PAGE, (1 - part) * _WIDTH)
        _draw_channels(bottom, item, _PAGE, _WIDTH)
    limit_size(out, _MOST_BYTES)


def limit_size(path: Path, most: int) -> None:
    """Rewrite a PNG of more than ``most`` bytes with 256 colours; its texts stay."""
    if path.stat().st_size <= most:
        return
    texts = PngInfo()
    with Image.open(path) as whole:
        reduced = whole.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        for key in ("Title", "Description"):
            texts.add_text(key, str(whole.info[key]))
    with atomic_path(path) as temporary:
        reduced.save(temporary, optimize=True, pnginfo=texts, dpi=(_DOTS_PER_INCH, _DOTS_PER_INCH))


def _side_by_side(band: SubFigure, widths: Sequence[float]) -> list[SubFigure]:
    return _parts(band, (1, len(widths)), width_ratios=widths)


def _parts(figure: Figure | SubFigure, shape: tuple[int, int], **ratios: Sequence[float]) -> list[SubFigure]:
    # The stubs know no array of figures.
    parts: Any = figure.subfigures(*shape, squeeze=False, **ratios)  # type: ignore[call-overload]
    return list(parts.flat)


def _aspect(scene: Scene) -> float:
    height, width = map(int, scene.image.shape[-2:])
    return height / width


def _channel_aspect(item: QKVA, detail: _Detail) -> float:
    sheet, _ = channel_sheet(item, "q", detail.channel_rows, detail.channel_columns)
    height, width = map(int, sheet.shape)
    return height / width


def _reading(items: Sequence[QKVA], scene: Scene) -> str:
    """What must be known to read a picture."""
    places = []
    for item in items:
        row, column = divmod(item.token_at(scene.point), item.grid[1])
        places.append(f"stage {item.stage}: ({row}, {column}) of {item.grid[0]} x {item.grid[1]}")
    return (
        "Q, K and V are images of the feature map, one per channel; grey is 0. A is a grid of images: tile (i, j) "
        "shows where token (i, j) looks. Brightness of A: square root of the weight, with a scale for each panel. "
        "Of a large grid, every n-th row and column of tiles is shown. "
        f"Marked and framed: the token at row and column (from 0) {', '.join(places)}."
    )


def _name(item: QKVA) -> str:
    return f"Stage {item.stage}, {item.heads} {'head' if item.heads == 1 else 'heads'}"


def _head_line(figure: Figure | SubFigure, text: str) -> None:
    figure.suptitle(text, fontsize=8.5, x=0.01, horizontalalignment="left")


def _draw_scene(figure: SubFigure, scene: Scene) -> None:
    axes = figure.subplots()
    axes.imshow(scene.image.permute(1, 2, 0).numpy(), extent=(0, 1, 1, 0), aspect=_aspect(scene))
    for x0, y0, x1, y1 in scene.boxes.tolist():
        _draw_frame(axes, (x0, y0, x1 - x0, y1 - y0), ("white", "black"))
    y, x = scene.point
    axes.plot(x, y, "+", color="white", markersize=15, markeredgewidth=3.5)
    axes.plot(x, y, "+", color="black", markersize=13, markeredgewidth=1.4)
    axes.set_axis_off()
    _head_line(figure, f"Image {scene.image_id}; a token: +")


def _draw_looks(figure: SubFigure, item: QKVA, scene: Scene) -> None:
    """The token's tile of A over the image, for each head and, of several, for their mean."""
    token = item.token_at(scene.point)
    looks = item.attention(torch.tensor(token)).numpy()
    if item.heads > 1:
        looks = np.concatenate((looks, looks.mean(0, keepdims=True)))
    panels = _block(figure, len(looks))
    grey = scene.image.mean(0).numpy()
    for number, (panel, look) in enumerate(zip(panels, looks, strict=True)):
        height, width = look.shape
        weight = (look / look.max()) ** _GAMMA
        colours = _WEIGHTS(weight)
        colours[..., 3] = 0.45 + 0.5 * weight
        extent = (0.0, float(width), float(height), 0.0)
        aspect = _aspect(scene) * width / height
        panel.imshow(grey, extent=extent, aspect=aspect, cmap="gray", vmin=-0.2, vmax=1.2)
        panel.imshow(colours, extent=extent, aspect=aspect, interpolation="nearest")
        row, column = divmod(token, width)
        _draw_frame(panel, (column, row, 1, 1), ("black", _FRAME))
        name = "" if item.heads == 1 else "mean, " if number == item.heads else f"head {number + 1}, "
        panel.set_title(f"{name}max {look.max():.2g}", fontsize=6, loc="center", pad=2)
    _head_line(figure, f"{_name(item)}: where + looks")


def _draw_frame(axes: Axes, place: tuple[float, float, float, float], colours: tuple[str, str]) -> None:
    left, top, width, height = place
    for colour, line in zip(colours, (2.4, 1.2), strict=True):
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=line))


def _draw_channels(figure: SubFigure, item: QKVA, detail: _Detail, inches: float) -> None:
    panels = figure.subplots(1, len(_LETTERS), gridspec_kw={"wspace": 0.03})
    shown = 0
    for panel, letter in zip(panels, _LETTERS, strict=True):
        sheet, shown = channel_sheet(item, letter, detail.channel_rows, detail.channel_columns)
        # Enlarged pixels stay pixels; where the sheet is made smaller, none is skipped.
        way = "nearest" if sheet.shape[1] < inches / len(_LETTERS) * _DOTS_PER_INCH else "antialiased"
        panel.imshow(sheet, cmap="gray", vmin=-1, vmax=1, interpolation=way)
        panel.set_title(letter.upper(), loc="center", fontsize=8, pad=2)
        panel.set_axis_off()
        panel.set_anchor("N")
    count = f"{shown} of {item.heads * item.q.shape[-1]} channels"
    tokens = f"{item.grid[0]} x {item.grid[1]} tokens"
    _head_line(figure, f"Stage {item.stage}, {tokens}: {count}{', a row per head' if item.heads > 1 else ''}")


def _draw_attention(figure: SubFigure, item: QKVA, scene: Scene, detail: _Detail, inches: float) -> None:
    """A as a grid of images: of one head, or of each head and their mean."""
    heads = [0] if item.heads == 1 else [*range(item.heads), None]
    token = item.token_at(scene.point)
    sample = Sample.of(item, token, detail.tiles, inches / square_columns(len(heads)) * _DOTS_PER_INCH)
    for panel, head in zip(_block(figure, len(heads)), heads, strict=True):
        sheet = attention_sheet(item, head, sample)
        norm = PowerNorm(_GAMMA, 0, float(np.nanquantile(sheet, 0.998)))
        panel.imshow(sheet, cmap=_WEIGHTS, norm=norm, interpolation="nearest")
        panel.set_anchor("N")
        _draw_frame(panel, tile_of(item, token, sample), ("black", _FRAME))
        if item.heads > 1:
            panel.set_title("mean" if head is None else f"head {head + 1}", fontsize=6, loc="center", pad=2)
    kept = "" if sample.every == 1 else f", every {sample.every}th"
    _head_line(figure, f"Stage {item.stage}: A; tile (i, j): where token (i, j) looks{kept}; frame: +")


def _block(figure: SubFigure, count: int) -> list[Axes]:
    """So many panels in a block that is about square; what is left of the block stays empty."""
    columns = square_columns(count)
    rows = -(-count // columns)
    panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03})
    for panel in panels.flat:
        panel.set_axis_off()
    return list(panels.flat)[:count]
