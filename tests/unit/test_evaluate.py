"""The tables that `evaluate` prints; what they hold has tests of its own."""

from pathlib import Path
from typing import Any

from tests.told import cells, trial
from usseg_ray.core.table_text import as_rich
from usseg_ray.evaluate import classes_table, scores_table
from usseg_ray.scoring.protocols import Refinement
from usseg_ray.trials.rescore import ScoringRecord

METRICS = {
    "unsup_acc": 50.0,
    "unsup_miou": 25.04,
    "evaluated_images": 11.0,
    "used_clusters": 9.0,
    "collapsed": 0.0,
    "flip.used_clusters": 8.0,
    "flip.collapsed": 0.0,
    "flip.unsup_acc": 51.0,
    "flip.unsup_miou": 26.0,
}


def evaluated(crf: str = "") -> ScoringRecord:
    return ScoringRecord(
        trial(0, 25.0),
        "a protocol",
        "unsup_miou",
        (Refinement.parse("flip"),),
        METRICS,
        {"position": 20.0},
        crf,
        "",
        Path("here"),
    )


def test_refinements_have_columns_and_the_score_that_counts_comes_first() -> None:
    table = as_rich(scores_table(evaluated()))
    assert [str(column.header) for column in table.columns] == ["score, %", "no refiner", "flip"]
    rows = list(zip(*(column.cells for column in table.columns), strict=False))
    # Counts are no scores, and are left out.
    assert rows[:-1] == [
        ("unsup_miou", "25.04", "26.00"),
        ("unsup_acc", "50.00", "51.00"),
    ]


def test_baselines_stand_beneath() -> None:
    table = as_rich(scores_table(evaluated()))
    names, values = (list(column.cells) for column in table.columns[:2])
    assert (names[-1], values[-1]) == ("unsup_miou of position (floor)", "20.00")


def test_it_is_said_which_crf_it_was() -> None:
    assert scores_table(evaluated()).caption == "a protocol"
    assert scores_table(evaluated("exact")).caption == "a protocol; CRF: exact"


def test_a_class_that_is_nowhere_has_no_iou() -> None:
    classes: list[dict[str, Any]] = [
        {"class": "sky", "iou": 91.0, "pixels": 120},
        {"class": "boat", "iou": None, "pixels": 0},
    ]
    assert cells(as_rich(classes_table(classes))) == [["sky", "91.00", "120"], ["boat", "-", "0"]]
