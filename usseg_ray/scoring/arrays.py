"""The arrays that an evaluation leaves in a trial's folder, from which `trial_page` makes pictures.

A training worker writes those of its last evaluation, and loads nothing that draws.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from usseg_ray.core.files import write_whole
from usseg_ray.core.npz import read_arrays
from usseg_ray.scoring.evaluation import Evaluation
from usseg_ray.scoring.metrics import MatchedCounts

ARRAYS, COUNTS = "evaluation.npz", "images.npz"


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Writes an evaluation's arrays, replacing an earlier one in one move.

    Args:
        evaluation: What to keep.
        folder: The trial's folder.
    """
    examples, scores = evaluation.examples, evaluation.scores
    arrays: dict[str, Any] = {
        "pixels": np.array(examples.pixels),
        "clusters": np.array(examples.clusters),
        "labels": np.array(examples.labels),
        "captions": np.array(examples.captions, dtype=str),
        "patches": evaluation.patches.pixels,
        "found": evaluation.patches.found,
        "fixed": evaluation.fixed,
    }
    if scores is not None:
        arrays |= {
            "confusion": scores.confusion,
            "class_of": scores.class_of,
            "iou": scores.iou,
            "unsup_miou": np.array(scores.unsup_miou),
        }
    write_whole(folder / ARRAYS, lambda stream: np.savez_compressed(stream, **arrays))


def write_counts(evaluation: Evaluation, folder: Path) -> None:
    """Writes what was counted in every image, from which the split's scores can be had again.

    Args:
        evaluation: Of a whole split, in one process; nothing happens without ground truth.
        folder: Where the file goes: arrays `ids` (n,), numbers of the images in the split, and
            `intersection`, `predicted` and `actual`, each (n, C) pixels.
    """
    counts = evaluation.counts
    if counts is None:
        return
    arrays: dict[str, Any] = {
        "ids": evaluation.numbers,
        "intersection": counts.intersection,
        "predicted": counts.predicted,
        "actual": counts.actual,
    }
    write_whole(folder / COUNTS, lambda stream: np.savez_compressed(stream, **arrays))


def read_evaluation(folder: Path, needed: Mapping[str, int]) -> dict[str, np.ndarray] | None:
    """Reads what `write_evaluation` wrote; `None` where it wrote nothing.

    Args:
        folder: The trial's folder.
        needed: Arrays that there must be, and how many dimensions each.

    Raises:
        DamagedError: It is not what was written.
    """
    cure = "Remove it: the trial keeps its scores, and goes without pictures and agreement."
    path = folder / ARRAYS
    return read_arrays(path, needed, cure) if path.exists() else None


def read_counts(folder: Path) -> MatchedCounts:
    """Reads what `write_counts` wrote, in the order of the images in their split.

    Raises:
        DamagedError: It is not what was written.
    """
    dims = {"ids": 1, "intersection": 2, "predicted": 2, "actual": 2}
    cure = "Remove it, and --resume the sweep: the run is scored again."
    found = read_arrays(folder / COUNTS, dims, cure)
    order = np.argsort(found["ids"], kind="stable")
    return MatchedCounts(*(found[name][order] for name in ("intersection", "predicted", "actual")))
