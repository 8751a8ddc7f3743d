"""Scores as charts: the confusion matrix, the score of every class.

It stands behind `scoring` and before `tracking`, beside `mosaic`, which shows the label maps.
Nothing here depends on a screen, a clock or a random number: the same arrays give the same bytes.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from usseg_ray.pictures.palettes import RGB, colour_for


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str]) -> Image.Image:
    """Draws where the pixels of every cluster truly lie.

    Args:
        confusion: (C + U, C) pixel counts, rows renamed by `matched_ids`: row i below C is the
            cluster matched to class i, the U later rows have none; columns are the ground truth.
        classes: Names of the C classes.

    Returns:
        The matrix, every row in percent of its cluster's pixels.
    """
    share = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    canvas, axes, around = _blank_matrix(len(confusion), tuple(classes))
    canvas.restore_region(around)
    (cells,) = axes.images
    cells.set_data(share)
    for artist in (cells, *axes.lines):
        axes.draw_artist(artist)
    for row, column in zip(*np.nonzero(share >= 1), strict=True):
        value = share[row, column]
        weight = "bold" if row == column else "normal"
        tint = "white" if value > 55 else "#222222"
        text = axes.text(
            column,
            row,
            f"{value:.0f}",
            ha="center",
            va="center",
            color=tint,
            size=8,
            weight=weight,
        )
        axes.draw_artist(text)
        text.remove()
    return _picture(canvas)


@lru_cache(maxsize=1)
def _blank_matrix(num_clusters: int, classes: tuple[str, ...]) -> tuple[FigureCanvasAgg, Axes, Any]:
    """Draws what is around a confusion matrix, half of the work and equal for all trials of a K.

    Returns:
        The canvas, the axes with an image and the lines between its cells, neither of which is
        drawn yet, and the canvas's content.
    """
    num_classes = len(classes)
    side = 0.42 if num_classes > 15 else 0.55
    figure = _figure(3.2 + side * num_classes, 1.9 + side * num_clusters)
    axes = figure.subplots()
    nothing = np.zeros((num_clusters, num_classes))
    cells = axes.imshow(nothing, cmap="Blues", vmin=0, vmax=100, animated=True)
    spare = [f"unmatched {k + 1}" for k in range(num_clusters - num_classes)]
    axes.set_xticks(
        range(num_classes),
        classes,
        rotation=45,
        ha="right",
        rotation_mode="anchor",
        parse_math=False,
    )
    axes.set_yticks(range(num_clusters), [*classes, *spare], parse_math=False)
    axes.set_xlabel("ground truth")
    axes.set_ylabel("predicted, clusters after matching")
    axes.tick_params(length=0)
    for column in range(num_classes + 1):
        axes.axvline(column - 0.5, color="white", linewidth=1.5, animated=True)
    for row in range(num_clusters + 1):
        axes.axhline(row - 0.5, color="white", linewidth=1.5, animated=True)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(cells, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("% of the predicted pixels")
    bar.outline.set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas, axes, canvas.copy_from_bbox(figure.bbox)


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
    axes.set_yticks(rows, [classes[index] for index in order], parse_math=False)
    axes.set_xlabel("IoU, %")
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return _rendered(figure)


def k_curves(
    curves: Mapping[str, Sequence[tuple[int, float, float]]], best: int, method: str
) -> Image.Image:
    """Draws what was measured of every number of clusters, a chart a metric.

    Args:
        curves: Metric -> K, mean and deviation over seeds, in the order of K.
        best: The K that is recommended.
        method: Named above.
    """
    figure = _figure(7, 0.8 + 2.6 * len(curves))
    rows = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (metric, points) in zip(rows, curves.items(), strict=True):
        counts, means, deviations = zip(*points, strict=True)
        axes.errorbar(counts, means, deviations, color="#0072b2", marker="o", ms=4, capsize=3)
        axes.axvline(best, color="#222222", linestyle=(0, (4, 3)), linewidth=1, zorder=0)
        axes.set_ylabel(metric)
        axes.spines[["top", "right"]].set_visible(False)
    rows[0].set_title(f"{method}, dashed: K = {best}", loc="left", size=10)
    rows[-1].set_xlabel("K, clusters")
    return _rendered(figure)


def _figure(width: float, height: float) -> Figure:
    figure = Figure((width, height), dpi=110)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    return figure


def _rendered(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return _picture(canvas)


def _picture(canvas: FigureCanvasAgg) -> Image.Image:
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
