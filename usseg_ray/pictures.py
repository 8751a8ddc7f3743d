"""What a sweep shows: mosaics of label maps, the confusion matrix, the score of every class.

It stands behind `scoring` and before `tracking`: a trial draws its pictures into its run folder,
and the sweep's driver uploads them. A class keeps its colour in every picture, trial and sweep;
a cluster that the matching left without a class is hatched grey, so it cannot pass for one.
Nothing here depends on a screen, a clock or a random number: the same arrays give the same bytes.
"""

import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import get_data_path
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from usseg_ray.config import UserError

RGB = NDArray[np.uint8]
Ids = NDArray[np.integer[Any]]

# The eight colours of M. Okabe and K. Ito (2008) that stay apart for colour-blind readers, with a
# brown in place of black, which is where label maps have nothing; `_extended` goes on from there.
_BASE = "0072b2 e69f00 009e73 cc79a7 d55e00 56b4e9 f0e442 743c1e"
_NEUTRALS = ((0, 0, 0), (96, 96, 96), (160, 160, 160), (255, 255, 255))
# Deuteranopia in linear RGB: G. M. Machado et al., IEEE TVCG 15(6), 2009, severity 1.0.
_DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
# Linear RGB to OKLab: B. Ottosson, "A perceptual color space for image processing", 2020.
_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)

_INK = (34, 34, 34)
_MARGIN, _GUTTER, _SWATCH = 20, 8, 22
_MIN_CELL = 320  # pixels: smaller images are enlarged, so that hatches and text keep their size


def colour_for(classes: Sequence[str], palette: Sequence[Sequence[int]] | None = None) -> RGB:
    """Gives every class its colour.

    Args:
        classes: Names of the classes, in order.
        palette: The data set's own RGB colours, one a class; without it colours are chosen that
            differ for colour-blind readers too, and more classes never change the first ones.

    Returns:
        (C, 3) uint8, RGB.

    Raises:
        UserError: The palette does not have one RGB colour for every class.
    """
    if palette is None:
        return np.array(_extended(len(classes)), dtype=np.uint8).reshape(-1, 3)
    colours = np.array([list(colour) for colour in palette if len(colour) == 3])
    if len(palette) != len(classes) or len(colours) != len(classes):
        raise UserError(
            f"The palette has {len(colours)} RGB colours for {len(classes)} classes.\n"
            "Give `palette` in dataset.json one [red, green, blue] a class, or leave it out."
        )
    return colours.astype(np.uint8).reshape(-1, 3)


def matched_ids(class_of: Ids, num_classes: int) -> NDArray[np.int64]:
    """Renames clusters for drawing: by their class, or past the classes where they have none.

    Args:
        class_of: (K,) class of every cluster, -1 without one.
        num_classes: C.

    Returns:
        (K,) class, or C, C + 1, ... for the clusters without one, in their order.
    """
    spare = num_classes - 1 + np.cumsum(class_of < 0)
    return np.where(class_of < 0, spare, class_of).astype(np.int64)


def mosaic(
    images: RGB,
    truth: Ids | None,
    prediction: Ids,
    *,
    classes: Sequence[str],
    palette: RGB,
    ignore_index: int | None = None,
    titles: Sequence[str] | None = None,
    caption: str = "",
) -> Image.Image:
    """Lays images, ground truth and predictions side by side, one image a row, with a legend.

    Args:
        images: (n, H, W, 3) uint8, RGB.
        truth: (n, H, W) class or `ignore_index`; `None` leaves the column out.
        prediction: (n, H, W) cluster renamed by `matched_ids`: a class, or from C on, none.
        classes: Names of the C classes.
        palette: (C, 3) uint8, from `colour_for`.
        ignore_index: Value of `truth` where there is none.
        titles: Captions of the columns.
        caption: A line above everything, such as data set, split and score.

    Returns:
        The mosaic; its legend names the classes and clusters that are in it.
    """
    scale = math.ceil(_MIN_CELL / images.shape[2])
    columns = [[_enlarged(image, scale) for image in images]]
    if truth is not None:
        columns.append([_paint(_repeat(ids, scale), palette, ignore_index) for ids in truth])
    columns.append([_paint(_repeat(ids, scale), palette, None) for ids in prediction])
    names = titles or (
        ("image", "prediction") if truth is None else ("image", "ground truth", "prediction")
    )
    body = _grid(columns, names)
    legend = _legend(_entries(truth, prediction, classes, palette, ignore_index), body.width)
    parts = [_line(caption, body.width)] if caption else []
    return _stack([*parts, body, legend])


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str]) -> Image.Image:
    """Draws where the pixels of every cluster truly lie.

    Args:
        confusion: (C + U, C) pixel counts, rows renamed by `matched_ids`: row i below C is the
            cluster matched to class i, the U later rows have none; columns are the ground truth.
        classes: Names of the C classes.

    Returns:
        The matrix, every row in percent of its cluster's pixels.
    """
    num_clusters, num_classes = confusion.shape
    share = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = 0.42 if num_classes > 15 else 0.55
    figure = _figure(3.2 + side * num_classes, 1.9 + side * num_clusters)
    axes = figure.subplots()
    drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    spare = [f"unmatched {k + 1}" for k in range(num_clusters - num_classes)]
    axes.set_xticks(range(num_classes), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(num_clusters), [*classes, *spare])
    axes.set_xlabel("ground truth")
    axes.set_ylabel("predicted, clusters after matching")
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(num_clusters + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    for row, column in zip(*np.nonzero(share >= 1), strict=True):
        value = share[row, column]
        weight = "bold" if row == column else "normal"
        tint = "white" if value > 55 else "#222222"
        axes.text(
            column, row, f"{value:.0f}", ha="center", va="center", color=tint, size=8, weight=weight
        )
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("% of the predicted pixels")
    bar.outline.set_visible(False)
    return _rendered(figure)


def per_class_bars(
    iou: NDArray[np.floating[Any]], classes: Sequence[str], *, palette: RGB | None = None
) -> Image.Image:
    """Draws the score of every class, best first, with their mean.

    Args:
        iou: (C,) percent; NaN for a class that is nowhere in the split.
        classes: Names of the C classes.
        palette: (C, 3) uint8, the classes' colours.

    Returns:
        The bars.
    """
    colours = (colour_for(classes) if palette is None else palette) / 255
    order = np.argsort(np.where(np.isnan(iou), -1.0, iou), kind="stable")
    figure = _figure(7, 1.2 + 0.3 * len(classes))
    axes = figure.subplots()
    rows = np.arange(len(order))
    width = np.nan_to_num(iou[order], nan=0.0)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.barh(rows, width, color=colours[order], height=0.72, edgecolor="#222222", linewidth=0.4)
    for row, value in enumerate(iou[order]):
        text = "not in this split" if np.isnan(value) else f"{value:.1f}"
        axes.text(np.nan_to_num(value) + 0.8, row, text, va="center", size=9, bbox=paper)
    if not np.isnan(iou).all():
        mean = float(np.nanmean(iou))
        axes.axvline(mean, color="#222222", linestyle=(0, (4, 3)), linewidth=1, zorder=0)
        axes.set_title(f"mean {mean:.1f}", loc="left", size=10)
    axes.set_yticks(rows, [classes[index] for index in order])
    axes.set_xlabel("IoU, %")
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return _rendered(figure)


def save(image: Image.Image, path: Path) -> None:
    """Writes a PNG whole or not at all, since a run folder may be read while it grows.

    Args:
        image: What to write.
        path: Where; missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    image.save(part, format="PNG")
    part.replace(path)


@cache
def _extended(count: int) -> tuple[tuple[int, ...], ...]:
    """Adds to the base colours, one at a time, the one farthest from all before it."""
    levels = np.linspace(0, 255, 13).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(grid, blind=False)
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    grid = grid[(lightness > 0.4) & (lightness < 0.9) & (chroma > 0.07) & (chroma < 0.19)]
    chosen = [tuple(bytes.fromhex(colour)) for colour in _BASE.split()]
    nearest = np.min([_distance(grid, np.array(c)) for c in (*_NEUTRALS, *chosen)], axis=0)
    while len(chosen) < count:
        best = grid[int(nearest.argmax())]
        chosen.append(tuple(int(value) for value in best))
        nearest = np.minimum(nearest, _distance(grid, best))
    return tuple(chosen[:count])


def _distance(colours: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """How far colours are from one, to an eye with three kinds of cones and to one with two."""
    apart = [
        np.linalg.norm(_oklab(colours, blind=blind) - _oklab(other, blind=blind), axis=-1)
        for blind in (False, True)
    ]
    return np.asarray(0.5 * apart[0] + 0.5 * apart[1])


def _oklab(rgb: NDArray[Any], *, blind: bool) -> NDArray[np.float64]:
    """Takes 8-bit sRGB to OKLab, where equal distances look equal."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    if blind:
        linear = np.clip(linear @ _DEUTERANOPIA.T, 0, 1)
    return np.asarray(np.cbrt(linear @ _RGB_TO_LMS.T) @ _LMS_TO_OKLAB.T)


def _paint(ids: Ids, palette: RGB, ignore_index: int | None) -> RGB:
    """Colours a label map: classes plain, clusters without a class hatched, nothing as a grid."""
    y, x = np.indices(ids.shape)
    cluster = np.maximum(ids - len(palette), 0)
    phase = np.choose(cluster % 4, [x + y, x - y, x, y]) // 4 % 2
    dark, light = np.array([70, 110, 160]), np.array([160, 215, 240])
    tone = cluster // 4 % 3
    hatch = np.where(phase == 0, dark[tone], light[tone])[..., None]
    plain = palette[np.clip(ids, 0, len(palette) - 1)]
    painted = np.where((ids >= len(palette))[..., None], hatch, plain)
    if ignore_index is not None:
        paper = np.where((x // 4 + y // 4) % 2 == 0, 255, 226)[..., None]
        painted = np.where((ids == ignore_index)[..., None], paper, painted)
    return painted.astype(np.uint8)


def _repeat(ids: Ids, scale: int) -> Ids:
    return ids.repeat(scale, axis=0).repeat(scale, axis=1)


def _enlarged(image: RGB, scale: int) -> RGB:
    size = (image.shape[1] * scale, image.shape[0] * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _entries(
    truth: Ids | None,
    prediction: Ids,
    classes: Sequence[str],
    palette: RGB,
    ignore_index: int | None,
) -> list[tuple[str, RGB]]:
    """Lists what the label maps contain: classes, then clusters without one, then nothing."""
    known = np.zeros((0,), np.int64) if truth is None else np.unique(truth)
    labelled = known if ignore_index is None else known[known != ignore_index]
    entries = []
    for index in np.union1d(labelled, np.unique(prediction)).tolist():
        name = classes[index] if index < len(classes) else f"unmatched {index - len(classes) + 1}"
        block = np.full((_SWATCH, _SWATCH), index)
        entries.append((name, _paint(block, palette, None)))
    if ignore_index is not None and ignore_index in known:
        block = np.full((_SWATCH, _SWATCH), ignore_index)
        entries.append(("no ground truth", _paint(block, palette, ignore_index)))
    return entries


@cache
def _font(size: int, name: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), "white")
    return image, ImageDraw.Draw(image)


def _line(text: str, width: int) -> Image.Image:
    """Sets one centred line, smaller if it would not fit."""
    size = min(20, int(20 * width / max(_font(20).getlength(text), 1)))
    image, draw = _canvas(width, 28)
    draw.text((width / 2, 12), text, fill=_INK, font=_font(max(size, 8)), anchor="mm")
    return image


def _grid(columns: Sequence[Sequence[RGB]], titles: Sequence[str]) -> Image.Image:
    """Sets captioned columns of equal cells with thin gutters."""
    height, width = columns[0][0].shape[:2]
    head = 30
    image, draw = _canvas(
        len(columns) * (width + _GUTTER) - _GUTTER,
        head + len(columns[0]) * (height + _GUTTER) - _GUTTER,
    )
    for column, (cells, title) in enumerate(zip(columns, titles, strict=True)):
        left = column * (width + _GUTTER)
        font = _font(17, "DejaVuSans-Bold")
        draw.text((left + width / 2, head / 2 - 2), title, fill=_INK, font=font, anchor="mm")
        for row, cell in enumerate(cells):
            image.paste(Image.fromarray(cell), (left, head + row * (height + _GUTTER)))
    return image


def _legend(entries: Sequence[tuple[str, RGB]], width: int) -> Image.Image:
    """Sets swatches and names in centred rows, as many to a row as fit."""
    font, gap, pitch = _font(15), 26, _SWATCH + 10
    rows: list[list[tuple[str, RGB, int]]] = [[]]
    room = width
    for name, swatch in entries:
        need = _SWATCH + 8 + math.ceil(font.getlength(name))
        if rows[-1] and need > room:
            rows.append([])
            room = width
        rows[-1].append((name, swatch, need))
        room -= need + gap
    image, draw = _canvas(width, 6 + pitch * len(rows))
    for index, row in enumerate(rows):
        left = (width - sum(need + gap for _, _, need in row) + gap) // 2
        top = 6 + index * pitch
        for name, swatch, need in row:
            image.paste(Image.fromarray(swatch), (left, top))
            draw.rectangle((left, top, left + _SWATCH - 1, top + _SWATCH - 1), outline=_INK)
            middle = (left + _SWATCH + 8, top + _SWATCH // 2)
            draw.text(middle, name, fill=_INK, font=font, anchor="lm")
            left += need + gap
    return image


def _stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Sets parts of one width below each other, with a margin around."""
    between = 10
    height = sum(part.height + between for part in parts) - between
    image, _ = _canvas(parts[0].width + 2 * _MARGIN, height + 2 * _MARGIN)
    top = _MARGIN
    for part in parts:
        image.paste(part, (_MARGIN, top))
        top += part.height + between
    return image


def _figure(width: float, height: float) -> Figure:
    figure = Figure((width, height), dpi=110)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    return figure


def _rendered(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
