"""What a sweep shows: mosaics of label maps, and the patches that clusters are surest of.

It stands behind `scoring` and before `tracking`: a trial draws its pictures into its run folder,
and the sweep's driver uploads them. Colours come from `palettes`, so that a class keeps its own in
every picture; `charts` draws the scores.
Nothing here depends on a screen, a clock or a random number: the same arrays give the same bytes.
"""

import math
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from usseg_ray.core.files import write_whole
from usseg_ray.pictures.palettes import RGB, Ids, paint

_INK, _RIM = (34, 34, 34), (190, 190, 190)
_MARGIN, _GUTTER, _SWATCH = 20, 8, 22
_BOLD = "DejaVuSans-Bold"
_MIN_CELL = 320  # pixels: smaller images are enlarged, so that hatches and text keep their size
# Of the gallery: pixels between patches and between columns, of a name; rows in a single column.
_PATCH_GAP, _COLUMN_GAP, _MAX_TEXT, _MAX_ROWS = 6, 40, 210, 14


def mosaic(
    images: RGB,
    truth: Ids | None,
    prediction: Ids,
    *,
    classes: Sequence[str],
    palette: RGB,
    ignore_index: int | None = None,
    rows: Sequence[str] | None = None,
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
        rows: n captions, one above each image's row.
        caption: A line above everything, such as data set, split and score.

    Returns:
        The mosaic; its legend names the classes and clusters that are in it.
    """
    scale = math.ceil(_MIN_CELL / images.shape[2])
    columns = [[_enlarged(image, scale) for image in images]]
    if truth is not None:
        columns.append([paint(_repeat(ids, scale), palette, ignore_index) for ids in truth])
    columns.append([paint(_repeat(ids, scale), palette) for ids in prediction])
    titles = ("image", "prediction") if truth is None else ("image", "ground truth", "prediction")
    body = _grid(columns, titles, rows)
    legend = _legend(_entries(truth, prediction, classes, palette, ignore_index), body.width)
    parts = [_line(caption, body.width)] if caption else []
    return _stack([*parts, body, legend])


def panels(images: RGB, maps: Sequence[Ids], titles: Sequence[str], *, palette: RGB) -> Image.Image:
    """Lays label maps of several clusterings beside the images, one image a row.

    Args:
        images: (n, H, W, 3) uint8, RGB.
        maps: (n, H, W) cluster of every pixel, of each clustering.
        titles: One above each of them.
        palette: (C, 3) uint8, from `colour_for`.
    """
    scale = math.ceil(_MIN_CELL / images.shape[2])
    columns = [[_enlarged(image, scale) for image in images]]
    columns += [[paint(_repeat(ids, scale), palette) for ids in each] for each in maps]
    return _stack([_grid(columns, ("image", *titles), None)])


def gallery_figure(
    patches: RGB,
    found: NDArray[np.bool_],
    names: Sequence[str],
    *,
    ids: Ids,
    palette: RGB,
    caption: str = "",
) -> Image.Image:
    """Shows what every cluster is: its colour, its name, and the patches it is surest of.

    Args:
        patches: (K, n, side, side, 3) uint8, RGB; of a `patches.Patches`, in the order to show.
        found: (K, n) bool, where there is a patch.
        names: K names; a second line, after a line break, may say how large the cluster is.
        ids: (K,) the clusters as `matched_ids` names them, for the colours of the mosaic.
        palette: (C, 3) uint8, from `colour_for`.
        caption: A line above everything.

    Returns:
        One row a cluster, in two columns where they are many; clusters without any patch are named
        in one line at the bottom.
    """
    known = found.any(axis=1)
    shown = np.flatnonzero(known).tolist()
    swatches = [paint(np.full((patches.shape[2], _SWATCH), index), palette) for index in ids]
    text_width = min(_MAX_TEXT, max((_name_width(names[k]) for k in shown), default=0))
    rows = [_gallery_row(patches[k], found[k], swatches[k], names[k], text_width) for k in shown]
    parts = [_in_columns(rows)] if rows else []
    width = parts[0].width if parts else _MIN_CELL
    if caption:
        parts.insert(0, _line(caption, width))
    if not known.all():
        missing = [names[k].partition("\n")[0] for k in np.flatnonzero(~known).tolist()]
        parts.append(_names_line("Without a patch: ", missing, width))
    return _stack(parts)


def save(image: Image.Image, path: Path) -> None:
    """Writes a PNG whole or not at all, since a run folder may be read while it grows.

    Args:
        image: What to write.
        path: Where; missing folders are made.
    """
    # Of zlib's ways the fastest, and smaller files than its default at the same level.
    coded = {"compress_level": 1, "compress_type": zlib.Z_RLE}
    write_whole(path, lambda stream: image.save(stream, format="PNG", **coded))


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
        entries.append((name, paint(block, palette)))
    if ignore_index is not None and ignore_index in known:
        block = np.full((_SWATCH, _SWATCH), ignore_index)
        entries.append(("no ground truth", paint(block, palette, ignore_index)))
    return entries


@cache
def _font(size: int, name: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), "white")
    return image, ImageDraw.Draw(image)


def _fitting(text: str, size: int, width: int, style: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    """Gives the font of that size, or the largest smaller one in which a text fits."""
    length = _font(size, style).getlength(text)
    return _font(max(min(size, int(size * width / max(length, 1))), 8), style)


def _line(text: str, width: int) -> Image.Image:
    """Sets one centred line, smaller if it would not fit."""
    image, draw = _canvas(width, 28)
    draw.text((width / 2, 12), text, fill=_INK, font=_fitting(text, 20, width), anchor="mm")
    return image


def _grid(
    columns: Sequence[Sequence[RGB]], titles: Sequence[str], rows: Sequence[str] | None
) -> Image.Image:
    """Sets captioned columns of equal cells with thin gutters, and a line above every row."""
    height, width = columns[0][0].shape[:2]
    head, above = 30, 24 if rows else 0
    pitch = above + height + _GUTTER
    image, draw = _canvas(
        len(columns) * (width + _GUTTER) - _GUTTER, head + len(columns[0]) * pitch - _GUTTER
    )
    for column, (cells, title) in enumerate(zip(columns, titles, strict=True)):
        left = column * (width + _GUTTER)
        font = _font(17, _BOLD)
        draw.text((left + width / 2, head / 2 - 2), title, fill=_INK, font=font, anchor="mm")
        for row, cell in enumerate(cells):
            image.paste(Image.fromarray(cell), (left, head + above + row * pitch))
    for row, (text, _) in enumerate(zip(rows, columns[0], strict=True) if rows else ()):
        middle = head + row * pitch + above / 2
        draw.text((0, middle), text, fill=_INK, font=_fitting(text, 15, image.width), anchor="lm")
    return image


def _name_width(name: str) -> int:
    first, *others = name.split("\n")
    bold = _font(14, _BOLD).getlength(first)
    return math.ceil(max([bold, *map(_font(14).getlength, others)]))


def _name(name: str, width: int, height: int) -> Image.Image:
    """Sets a name's lines, the first one bold, on a canvas that ends a name far too long."""
    image, draw = _canvas(width, height)
    lines = name.split("\n")
    for line, text in enumerate(lines):
        font = _fitting(text, 14, width, "DejaVuSans" if line else _BOLD)
        middle = height / 2 + 20 * (line - (len(lines) - 1) / 2)
        draw.text((0, middle), text, fill=_INK, font=font, anchor="lm")
    return image


def _gallery_row(
    patches: RGB, found: NDArray[np.bool_], swatch: RGB, name: str, text_width: int
) -> Image.Image:
    """Sets a cluster's swatch, its name and its patches."""
    count, side = patches.shape[:2]
    indent = _SWATCH + 10
    start = indent + text_width + 14
    image, draw = _canvas(start + count * (side + _PATCH_GAP) - _PATCH_GAP, side)
    image.paste(Image.fromarray(swatch), (0, 0))
    draw.rectangle((0, 0, _SWATCH - 1, side - 1), outline=_INK)
    image.paste(_name(name, text_width, side), (indent, 0))
    for index in np.flatnonzero(found).tolist():
        left = start + index * (side + _PATCH_GAP)
        image.paste(Image.fromarray(patches[index]), (left, 0))
        # White patches would be taken for none.
        draw.rectangle((left, 0, left + side - 1, side - 1), outline=_RIM)
    return image


def _in_columns(rows: Sequence[Image.Image]) -> Image.Image:
    """Sets equal rows below each other, in two columns where they are many."""
    num_columns = 1 if len(rows) <= _MAX_ROWS else 2
    length = -(-len(rows) // num_columns)
    width, height = rows[0].width + _COLUMN_GAP, rows[0].height + _PATCH_GAP
    image, _ = _canvas(num_columns * width - _COLUMN_GAP, length * height - _PATCH_GAP)
    for index, row in enumerate(rows):
        image.paste(row, (index // length * width, index % length * height))
    return image


def _names_line(start: str, names: Sequence[str], width: int) -> Image.Image:
    """Sets names in one line, and how many more there are where they do not fit."""
    font = _font(14)
    for count in range(len(names), -1, -1):
        more = [f"and {len(names) - count} more"] if count < len(names) else []
        text = start + ", ".join([*names[:count], *more])
        if font.getlength(text) <= width:
            break
    image, draw = _canvas(width, 22)
    draw.text((0, 11), text, fill=_INK, font=font, anchor="lm")
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
