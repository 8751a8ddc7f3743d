"""The pictures of a gallery: patches marked in their image, a cluster lit up, label maps."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from usseg_ray.outputs.gallery.seen import SMALL, GalleryImage
from usseg_ray.outputs.gallery.survey import Survey
from usseg_ray.pictures.encoding import embedded

PICTURED = 128
"""Clusters with pictures, those with the largest shares."""

_BYTES = 6_000
"""Of a picture, at most."""

_DIM = 0.25
"""What is left of the colours of all other clusters."""


@dataclass(frozen=True)
class Shot:
    """A picture on the page.

    Attributes:
        html: Its `img`.
        caption: Beneath it.
    """

    html: str
    caption: str


def per_row(count: int) -> int:
    """Says how many pictures of a kind each of K clusters has, so that a page has a bound."""
    return max(1, min(4, PICTURED // max(count, 1)))


def typical(survey: Survey, cluster: int, count: int) -> list[Shot]:
    """Shows where a cluster is surest of itself."""
    return [
        _shot(
            marked(one, int(one.patches.typical[cluster])),
            f"{one.name}: patch that cluster {cluster} is surest of",
            f"{one.name}, {_percent(one.patches.sure[cluster])}",
        )
        for one in survey.typical(cluster, count)
    ]


def borderline(survey: Survey, cluster: int, count: int) -> list[Shot]:
    """Shows where a cluster nearly lost, and to which."""
    names = survey.description.names.clusters
    return [
        _shot(
            marked(one, int(one.patches.borderline[cluster])),
            f"{one.name}: patch of cluster {cluster} that is nearly of cluster "
            f"{one.patches.rival[cluster]}",
            f"nearly {names[one.patches.rival[cluster]].name}",
        )
        for one in survey.borderline(cluster, count)
    ]


def largest(survey: Survey, cluster: int, count: int) -> list[Shot]:
    """Shows the images of which a cluster has most, all else dimmed."""
    return [
        _shot(
            lit(one, cluster),
            f"{one.name}: where cluster {cluster} is",
            f"{one.name}, {_percent(one.shares[cluster])}",
        )
        for one in survey.largest(cluster, count)
    ]


def examples(survey: Survey, count: int) -> list[Shot]:
    """Shows images from all over the set, each with its label map beside it."""
    palette = survey.description.names.palette
    shots = []
    for one in survey.spread(count):
        both = np.concatenate([one.small, palette[one.clusters]], axis=1)
        shots.append(_shot(both, f"{one.name}, and its clusters", one.name, 2 * SMALL, 2 * _BYTES))
    return shots


def marked(one: GalleryImage, patch: int) -> UInt8[np.ndarray, "h w 3"]:
    """Frames a patch in its image, and outlines the segment of the image that it lies in."""
    rows, columns = one.patches.grid
    height, width = one.small.shape[:2]
    row, column = divmod(patch, columns)
    box = (
        column * width / columns - 1,
        row * height / rows - 1,
        (column + 1) * width / columns,
        (row + 1) * height / rows,
    )
    picture = Image.fromarray(_outlined(one, _segment_at(one, box)))
    pen = ImageDraw.Draw(picture)
    pen.rectangle([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1], outline="black", width=3)
    pen.rectangle(box, outline="white", width=1)
    return np.asarray(picture)


def _segment_at(one: GalleryImage, box: tuple[float, float, float, float]) -> int:
    """Finds the segment that most of a patch lies in; 0 where that is none."""
    left, top, right, bottom = (max(0, round(edge)) for edge in box)
    here = one.segments[top : bottom + 1, left : right + 1]
    return int(np.bincount(here.ravel(), minlength=1).argmax())


def _outlined(one: GalleryImage, segment: int) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a segment's outline, light within and dark without; nothing for 0."""
    drawn = one.small.copy()
    if segment:
        inside = one.segments == segment
        near = ndimage.binary_erosion(inside, border_value=1)
        drawn[ndimage.binary_dilation(inside) & ~inside] = 0
        drawn[inside & ~near] = 255
    return drawn


def lit(one: GalleryImage, cluster: int) -> UInt8[np.ndarray, "h w 3"]:
    """Dims all but a cluster."""
    dim = (_DIM * one.small).astype(np.uint8)
    return np.where((one.clusters == cluster)[..., None], one.small, dim)


def grid(title: str, shots: list[Shot], style: str = "") -> str:
    """Lays pictures side by side under a heading; nothing where there are none."""
    figures = "".join(
        f"<figure>{shot.html}<figcaption>{escape(shot.caption)}</figcaption></figure>"
        for shot in shots
    )
    heading = f"<h4>{escape(title)}</h4>" if title else ""
    return f'{heading}<div class="shots{style}">{figures}</div>' if shots else ""


def image(picture: Image.Image, text: str, *, side: int, budget: int, flat: bool) -> str:
    """Writes an `img`, with what it shows in words."""
    source, (width, height) = embedded(picture, side=side, budget=budget, flat=flat)
    return f'<img src="{source}" width="{width}" height="{height}" alt="{escape(text)}">'


def _shot(
    pixels: np.ndarray, text: str, caption: str, side: int = SMALL, budget: int = _BYTES
) -> Shot:
    return Shot(image(Image.fromarray(pixels), text, side=side, budget=budget, flat=False), caption)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


Row = Callable[[Survey, int, int], list[Shot]]
"""Pictures of one kind for a cluster."""

ROWS: dict[str, Row] = {"Typical": typical, "Borderline": borderline, "Largest in": largest}
"""What is shown of every cluster: heading -> pictures."""
