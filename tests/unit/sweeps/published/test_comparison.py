"""What stands beside what: scores of runs in their folders, and the published numbers."""

from pathlib import Path
from typing import Any

import pytest

from usseg_ray.core.table import Spread, Table
from usseg_ray.sweeps.presets import PRESETS
from usseg_ray.sweeps.published.cells import TableCell, table_cells
from usseg_ray.sweeps.published.comparison import COLUMNS, SHOWN, VARIANTS, comparison
from usseg_ray.sweeps.published.scores import SCORES
from usseg_ray.trials.trial import SplitScores, Trial

STAMP = "cocostuff27 test, stego-320: as there"


def cell(name: str) -> TableCell:
    cells = {one.name: one for one in table_cells("cocostuff27", None, None)}
    return cells[f"{name}-cocostuff27"]


def begun(root: Path, one: TableCell, seeds: int = 1, **assigned: Any) -> Path:
    folder = root / one.name
    changed = {key.replace("__", "."): value for key, value in assigned.items()}
    one.request("cocostuff27", seeds, changed).begun("key").save(folder)
    return folder


def scored(folder: Path, method: str, *plain: float, refined: float | None = None) -> None:
    """Leaves scores of seeds from 5 on, refined ones of the first."""
    trial = Trial(0, method, {}, {"seed": 5}, 1, "FINISHED", {}, "checkpoint")
    trial.save(folder)
    for seed, value in enumerate(plain, start=5):
        name = f"trial_000-seed{seed}"
        scores = {"unsup_miou": value, "unsup_acc": 2 * value}
        SplitScores(name, method, STAMP, scores, {}).save(folder / "finalists" / name / "test")
    if refined is not None:
        found = {"unsup_miou": plain[0], "flip_crf.unsup_miou": refined, "flip_crf.unsup_acc": 61.0}
        place = folder / trial.name / "evaluations" / "all"
        SplitScores(trial.name, method, STAMP, found, {}, "lattice").save(place)


def row(table: Table, name: str, backbone: str) -> dict[str, Any]:
    (found,) = (
        dict(one.cells)
        for one in table.rows
        if (one.cells["name"], one.cells["backbone"]) == (name, backbone)
    )
    return found


def test_a_score_is_compared_as_it_was_refined(tmp_path: Path) -> None:
    stego = begun(tmp_path, cell("stego-vitb8"), seeds=2)
    scored(stego, "stego", 20.0, 22.0, refined=29.2)
    picie = begun(tmp_path, cell("picie-mdc"))
    scored(picie, "picie", 8.8)
    kmeans = begun(tmp_path, cell("kmeans"))
    scored(kmeans, "kmeans", 10.5)
    table = comparison({one.name: one for one in (stego, picie, kmeans)})

    found = row(table, "stego", "ViT-B/8")
    assert found["unsup_miou"] == Spread.of([20.0, 22.0])
    assert found["flip_crf.unsup_miou"] == Spread(29.2, None, 1)
    assert (found["published_miou"], found["refiner"]) == (28.2, "flip+crf")
    assert found["difference"] == pytest.approx(29.2 - 28.2)
    assert found["acc_difference"] == pytest.approx(61.0 - 56.9)
    assert (found["seeds"], found["note"], found["protocol"]) == (2.0, "CRF: lattice", STAMP)

    plain = row(table, "picie MDC", "ResNet-18 FPN")
    assert plain["difference"] == pytest.approx(8.8 - 9.8)
    assert "acc_difference" not in plain
    unstated = row(table, "kmeans", "ViT-S/8")
    assert unstated["difference"] == pytest.approx(10.5 - 9.5)


def test_what_no_run_is_beside_stands_below_its_method(tmp_path: Path) -> None:
    folder = begun(tmp_path, cell("stego"))
    table = comparison({folder.name: folder})
    names = [(one.cells["name"], one.cells["backbone"], one.kind) for one in table.rows]
    assert names == [("stego", "ViT-S/8", ""), ("stego", "ViT-B/8", "published")]
    assert row(table, "stego", "ViT-S/8")["remark"] == "not begun"
    assert "difference" not in row(table, "stego", "ViT-S/8")


def test_a_run_that_failed_or_was_changed_says_so(tmp_path: Path) -> None:
    folder = begun(tmp_path, cell("stego"), train__epochs=3, resources__device="cpu")
    Trial(0, "stego", {}, {"seed": 0}, 1, "FAILED", reason="no memory").save(folder)
    found = row(comparison({folder.name: folder}), "stego", "ViT-S/8")
    assert found["remark"] == "failed"
    assert found["note"] == "no memory; not as published: train.epochs=3"


def test_a_backbone_of_ones_own_stands_beside_nothing(tmp_path: Path) -> None:
    (one,) = table_cells("cocostuff27", "kmeans", "dinov3_s16")
    folder = begun(tmp_path, one)
    scored(folder, "kmeans", 12.0)
    found = row(comparison({folder.name: folder}), "kmeans", "vit_small_patch16_dinov3.lvd1689m")
    assert found["unsup_miou"] == Spread(12.0, None, 1)
    assert "published_miou" not in found
    assert found["note"] is None


def test_variants_are_those_of_publications() -> None:
    assert {preset.variant for preset in PRESETS} - {"", "vitb8", "vits16"} == set(VARIANTS)
    assert set(VARIANTS.values()) <= {score.variant for score in SCORES}


def test_a_terminal_shows_columns_of_the_table() -> None:
    assert set(SHOWN) <= {column.key for column in COLUMNS}


def test_what_failed_is_named_with_its_reason(tmp_path: Path) -> None:
    stego, kmeans = begun(tmp_path, cell("stego"), seeds=2), begun(tmp_path, cell("kmeans"))
    scored(stego, "stego", 20.0)
    lost = Trial(0, "stego", {}, {"seed": 6}, 1, "FAILED", reason="a node was lost", seed=6)
    lost.save(stego / "finalists")
    scored(kmeans, "kmeans", 10.5)
    runs = {one.name: one for one in (stego, kmeans)}
    found = row(comparison(runs), "stego", "ViT-S/8")
    assert (found["remark"], found["note"], found["seeds"]) == ("failed", "a node was lost", 1.0)
    found = row(comparison(runs, {kmeans.name: "no room"}), "kmeans", "ViT-S/8")
    assert (found["remark"], found["note"]) == ("failed", "no room")
