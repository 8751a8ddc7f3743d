"""Runs compared by their folders: finalists by mean over seeds, paired on the same images."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.evaluations import scored
from tests.told import cells, shown
from usseg_ray.core.table import OURS, Spread, Table
from usseg_ray.core.table_text import as_rich
from usseg_ray.report import __main__
from usseg_ray.report.runs import compare
from usseg_ray.scoring.arrays import write_counts
from usseg_ray.scoring.metrics import MatchedCounts
from usseg_ray.trials.trial import SplitScores, Trial, trial_name

STAMP = "scenes test, centre-crop: centre square at short side 320, bilinear, one-to-one; textons"
FULL = "scenes test, full-resolution: whole images at short side 320, nearest, one-to-one; textons"
FLOORS = {"position": 10.0, "kmeans": 20.0}


def counts(level: float, images: int = 40, salt: int = 0) -> MatchedCounts:
    """Counts of three classes, each with an IoU of about `level` in every image."""
    random = np.random.default_rng(salt)
    actual = np.random.default_rng(images).integers(50, 150, (images, 3))
    share = np.clip(random.normal(2 * level / (1 + level), 0.02, (images, 3)), 0, 1)
    intersection = (actual * share).astype(np.int64)
    return MatchedCounts(intersection, actual.copy(), actual)


def write(
    run: Path,
    index: int,
    method: str,
    levels: list[float],
    *,
    images: int = 40,
    stamp: str = STAMP,
    selection: float = 50.0,
    floors: dict[str, float] = FLOORS,
) -> None:
    """Writes a finalist with a seed for each level, as a sweep leaves it."""
    settings: dict[str, Any] = {"seed": 5, "num_clusters": 7, "data.selection_split": "val"}
    own = Trial(index, method, {}, settings, 1, "FINISHED", {"unsup_miou": selection})
    own.save(run)
    for seed, level in enumerate(levels, start=5):
        name = trial_name(index, seed)
        replace(own, seed=seed, settings=settings | {"seed": seed}).save(run / "finalists")
        place = run / "finalists" / name / "test"
        metrics = {"unsup_miou": 100 * level, "unsup_acc": 60.0}
        SplitScores(name, method, stamp, metrics, floors).save(place)
        evaluation = replace(scored(), numbers=np.arange(images))
        write_counts(replace(evaluation, counts=counts(level, images, seed)), place)


def column(table: Table, key: str) -> list[Any]:
    return [row.cells.get(key) for row in table.rows]


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    found = {f"3-methods-scenes-1128-22{n}": tmp_path / f"run{n}" for n in "01"}
    first, second = found.values()
    write(first, 0, "stego", [0.40, 0.42, 0.41], selection=50.0)
    write(first, 1, "acseg", [0.60, 0.61, 0.62], selection=40.0)
    write(second, 0, "stego", [0.61, 0.59, 0.60], selection=60.0)
    return found


def test_finalists_of_several_sweeps_stand_in_one_table(runs: dict[str, Path]) -> None:
    (table,) = compare(runs)
    assert column(table, "method")[:3] == ["acseg", "stego", "stego"]
    assert column(table, "letter")[:3] == ["A", "B", "A"]
    assert column(table, "rank")[:3] == [1.0, 2.0, 3.0]
    assert table.rows[0].cells["unsup_miou"] == Spread.of([60.0, 61.0, 62.0])
    assert table.caption.split("\n") == [
        STAMP,
        "settings picked by labels of val",
        "A: 3-methods-scenes-1128-220",
        "B: 3-methods-scenes-1128-221",
    ]
    # What its sweep chose, on the selection split, need not score most on the test split.
    assert column(table, "remark")[:3] == [None, None, "choice"]


def test_they_are_paired_across_sweeps(runs: dict[str, Path]) -> None:
    (table,) = compare(runs)
    near, far = table.rows[1].cells, table.rows[2].cells
    assert "behind" not in table.rows[0].cells
    assert str(near["behind"]).endswith("], noise")
    assert str(far["behind"]).endswith("]")
    low, mean, high = (far[f"behind_{end}"] for end in ("low", "mean", "high"))
    assert isinstance(low, float)
    assert isinstance(mean, float)
    assert isinstance(high, float)
    assert 0 < low < mean < high
    assert mean == pytest.approx(20.0, abs=1.0)


def test_baselines_stand_once_unless_they_differ(runs: dict[str, Path]) -> None:
    (table,) = compare(runs)
    assert column(table, "name")[3:] == ["kmeans\n(features)", "position\n(floor)"]
    write(runs["3-methods-scenes-1128-221"], 1, "stego", [0.3], floors={"kmeans": 21.0})
    (table,) = compare(runs)
    assert column(table, "name").count("position\n(floor)") == 1
    assert column(table, "name").count("kmeans\n(features)") == 2


def test_each_protocol_and_each_set_of_images_has_a_table(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    write(tmp_path / "run1", 3, "hp", [0.5, 0.5], stamp=FULL)
    write(tmp_path / "run1", 4, "hp", [0.5, 0.5], images=30)
    tables = compare(runs)
    assert [len([one for one in column(t, "letter") if one]) for t in tables] == [3, 1, 1]
    assert [t.caption.split("\n")[0] for t in tables].count(FULL) == 1
    (only,) = compare(runs, "full-resolution")
    assert column(only, "method")[0] == "hp"
    assert compare(runs, "nothing") == []


def test_backbones_compare_and_have_a_column(runs: dict[str, Path], tmp_path: Path) -> None:
    write(tmp_path / "run1", 2, "hp", [0.5, 0.5], stamp=STAMP.replace("textons", "dino (s)"))
    (table,) = compare(runs)
    assert set(column(table, "backbone")[:4]) == {"textons", "dino (s)"}
    assert "textons" not in table.caption


def test_an_evaluation_joins_the_seed_that_its_sweep_scored(runs: dict[str, Path]) -> None:
    folder = next(iter(runs.values()))
    place = folder / "trial_001" / "evaluations" / "scenes-test-centre-crop"
    metrics = {"unsup_miou": 60.0, "crf.unsup_miou": 65.0}
    SplitScores("trial_001", "acseg", STAMP, metrics, {}, "exact").save(place)
    (table,) = compare({"one": folder})
    first = table.rows[0].cells
    assert (first["seeds"], first["trial"], first["letter"]) == (3.0, "trial_001", None)
    assert first["crf.unsup_miou (exact)"] == Spread.of([65.0])
    assert table.columns[-1].title == "crf.unsup_miou (exact)"


def test_what_was_scored_by_hand_is_not_the_sweeps_choice(runs: dict[str, Path]) -> None:
    folder = next(iter(runs.values()))
    settings: dict[str, Any] = {"seed": 5, "num_clusters": 9, "data.selection_split": "val"}
    Trial(2, "hp", {}, settings, 1, "FINISHED", {"unsup_miou": 99.0}).save(folder)
    place = folder / "trial_002" / "evaluations" / "scenes-test-centre-crop"
    SplitScores("trial_002", "hp", STAMP, {"unsup_miou": 1.0}, {}).save(place)
    write_counts(replace(scored(), numbers=np.arange(40), counts=counts(0.01)), place)
    (table,) = compare({"one": folder})
    rows = [row.cells for row in table.rows if row.kind in OURS]
    assert {row["trial"]: row["remark"] for row in rows} == {
        "trial_000": "choice",
        "trial_001": None,
        "trial_002": None,
    }


def test_without_counts_there_is_no_interval(runs: dict[str, Path]) -> None:
    for path in next(iter(runs.values())).rglob("images.npz"):
        path.unlink()
    first, _ = compare(runs)
    assert first.rows[1].cells["behind"] == "20.0, images unknown"


def test_nothing_is_cut_in_80_columns(runs: dict[str, Path]) -> None:
    (table,) = compare(runs)
    text = shown(as_rich(table), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    words = " ".join(text.split())
    # No column is squeezed until its words break.
    for name in ("trial_000", "trial_001", "3-methods-scenes-1128-221", "60.0 ± 1.0", "noise"):
        assert name in words
    assert cells(as_rich(table))[0][1] == "A"


def test_the_command_writes_them_in_a_poor_encoding(runs: dict[str, Path]) -> None:
    asked = [sys.executable, "-m", "usseg_ray.report", *map(str, runs.values())]
    own = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "160"}
    done = subprocess.run(asked, capture_output=True, encoding="ascii", env=own, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "61.0 +- 1.0" in done.stdout


def test_the_command_writes_them_in_every_format(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [str(folder) for folder in runs.values()]
    told = CliRunner().invoke(__main__.app, [*named, "--format", "json"])
    (table,) = json.loads(told.output)["tables"]
    assert [row.get("rank") for row in table["rows"]] == [1.0, 2.0, 3.0, None, None]
    written = CliRunner().invoke(__main__.app, [*named, "--format", "md"]).output
    assert "| 1 | A | trial_001 acseg K=7 | 3 | 61.0 ± 1.0 |" in written
    assert len(CliRunner().invoke(__main__.app, [*named, "--format", "csv"]).output.split("\n")) > 5
