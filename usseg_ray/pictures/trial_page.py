"""The pictures and tables of a trial, drawn from the arrays of its last evaluation.

The sweep's driver draws them when the trial ends, however it ends, so a training worker never waits
for a figure.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from usseg_ray.core.files import first_line, write_whole
from usseg_ray.pictures.charts import confusion_figure, per_class_bars
from usseg_ray.pictures.mosaic import gallery_figure, mosaic, save
from usseg_ray.pictures.palettes import colour_for, matched_ids
from usseg_ray.scoring.arrays import read_evaluation
from usseg_ray.scoring.evaluation import FIXED_EXAMPLES, GroundTruth

EXAMPLES = "examples.npz"


def draw(
    folder: Path,
    truth: GroundTruth | None,
    palette: tuple[tuple[int, int, int], ...] | None,
    caption: str,
) -> None:
    """Draws `pictures/`, and writes what tables and comparisons need, from the last evaluation.

    With ground truth these are `per_class.json`, `confusion.csv` and `examples.npz`: label maps of
    the images that are the same for all trials.

    Args:
        folder: The trial's folder; nothing happens where it holds no evaluation.
        truth: Classes of the data, or `None`.
        palette: Colours of the classes, or `None` for distinct ones.
        caption: Line above the mosaic.

    Raises:
        DamagedError: The evaluation's file is not what was written.
    """
    arrays = read_evaluation(folder, {"captions": 1, "patches": 5})
    if arrays is None:
        return
    if truth is None or "confusion" not in arrays:
        _draw_unlabelled(arrays, folder, caption)
        return
    shown = matched_ids(arrays["class_of"], len(truth.classes))
    colours = colour_for(truth.classes, palette)
    pictures = folder / "pictures"
    # The first worker's part of a split may hold no labelled image.
    if len(arrays["pixels"]):
        picture = mosaic(
            arrays["pixels"],
            arrays["labels"],
            shown[arrays["clusters"]],
            classes=truth.classes,
            palette=colours,
            ignore_index=truth.ignore_index,
            rows=arrays["captions"].tolist(),
            caption=caption,
        )
        save(picture, pictures / "mosaic.png")
        _write_examples(folder, arrays, shown, truth, colours)
    _draw_gallery(arrays, shown, truth.classes, colours, caption, pictures / "clusters.png")
    matched = np.zeros((max(len(truth.classes), shown.max() + 1), len(truth.classes)), np.int64)
    matched[shown] = arrays["confusion"]
    save(confusion_figure(matched, truth.classes), pictures / "confusion.png")
    save(per_class_bars(arrays["iou"], truth.classes, palette=colours), pictures / "per_class.png")
    _write_tables(folder, truth.classes, arrays["iou"], matched)


def try_to_draw(
    folder: Path,
    truth: GroundTruth | None,
    palette: tuple[tuple[int, int, int], ...] | None,
    caption: str,
) -> str:
    """Draws as `draw` does; a picture that cannot be made ends nothing.

    Returns:
        What went wrong, in a line; empty if nothing did.
    """
    try:
        draw(folder, truth, palette, caption)
    except Exception as error:  # noqa: BLE001 (whatever it is, the trial has ended well)
        return first_line(error) or type(error).__name__
    return ""


def _write_tables(
    folder: Path, classes: tuple[str, ...], iou: np.ndarray, matched: np.ndarray
) -> None:
    pixels = matched.sum(axis=0)
    rows = [
        {"class": name, "iou": None if np.isnan(value) else float(value), "pixels": int(count)}
        for name, value, count in zip(classes, iou, pixels, strict=True)
    ]
    write_whole(folder / "per_class.json", json.dumps(rows, indent=1))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["matched cluster", *classes])
    for index, row in enumerate(matched.tolist()):
        spare = index - len(classes) + 1
        writer.writerow([classes[index] if spare < 1 else f"unmatched {spare}", *row])
    write_whole(folder / "confusion.csv", text.getvalue())


def _write_examples(
    folder: Path,
    arrays: dict[str, Any],
    shown: np.ndarray,
    truth: GroundTruth,
    colours: np.ndarray,
) -> None:
    """Writes the images that every trial shows, for others to lay predictions side by side."""
    first = slice(FIXED_EXAMPLES)
    examples = {
        "captions": arrays["captions"][first],
        "pixels": arrays["pixels"][first],
        "labels": arrays["labels"][first],
        "predicted": shown[arrays["clusters"][first]],
        "classes": np.array(truth.classes, dtype=str),
        "palette": colours,
        "ignore_index": np.array(truth.ignore_index),
    }
    write_whole(folder / EXAMPLES, lambda stream: np.savez_compressed(stream, **examples))


def _draw_gallery(
    arrays: dict[str, Any],
    shown: np.ndarray,
    classes: Sequence[str],
    palette: np.ndarray,
    caption: str,
    path: Path,
) -> None:
    """Draws the patches of every cluster in the order of their classes."""
    sizes = arrays["confusion"].sum(axis=1)
    names = [
        f"cluster {cluster}: "
        + (classes[index] if index < len(classes) else f"unmatched {index - len(classes) + 1}")
        + f"\n{100 * size / sizes.sum():.1f} % of the pixels"
        for cluster, (index, size) in enumerate(zip(shown.tolist(), sizes.tolist(), strict=True))
    ]
    order = np.argsort(shown, kind="stable")
    picture = gallery_figure(
        arrays["patches"][order],
        arrays["found"][order],
        [names[cluster] for cluster in order.tolist()],
        ids=shown[order],
        palette=palette,
        caption=caption,
    )
    save(picture, path)


def _draw_unlabelled(arrays: dict[str, Any], folder: Path, caption: str) -> None:
    names = [f"cluster {cluster}" for cluster in range(len(arrays["patches"]))]
    colours = colour_for(names)
    picture = mosaic(
        arrays["pixels"],
        None,
        arrays["clusters"],
        classes=names,
        palette=colours,
        rows=arrays["captions"].tolist(),
        caption=caption,
    )
    save(picture, folder / "pictures" / "mosaic.png")
    gallery = gallery_figure(
        arrays["patches"],
        arrays["found"],
        names,
        ids=np.arange(len(names)),
        palette=colours,
        caption=caption,
    )
    save(gallery, folder / "pictures" / "clusters.png")
