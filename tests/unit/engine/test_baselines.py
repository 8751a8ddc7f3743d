from pathlib import Path

import pytest
import torch

from tests import tiny
from usseg_ray.data.manifest import Manifest
from usseg_ray.engine.baselines import (
    CEILING,
    CLUSTERERS,
    Baselines,
    baseline_rows,
    compute_baselines,
)
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.settings import FLOORS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root)


@pytest.fixture(scope="module")
def found(prepared: tuple[str, Manifest]) -> Baselines:
    return compute_baselines(tiny.config(num_clusters=8), OpenSet(*prepared), CPU)


def test_every_baseline_on_both_splits(found: Baselines) -> None:
    assert set(FLOORS) < set(CLUSTERERS)
    assert list(found) == ["val", "test"]
    for scores in found.values():
        assert list(scores) == [*CLUSTERERS, CEILING]
        assert all(0 <= score <= 100 for score in scores.values())


def test_what_the_images_hold(found: Baselines) -> None:
    # Quarters of pure colour in random places.
    for scores in found.values():
        assert scores["position"] < 60
        assert scores["colour"] > scores["position"]
        assert scores[CEILING] > 85


def test_k_is_the_number_of_classes_whatever_the_trial_has(
    prepared: tuple[str, Manifest], found: Baselines
) -> None:
    again = compute_baselines(tiny.config("kmeans", num_clusters=3), OpenSet(*prepared), CPU)
    assert again == found


def test_a_split_that_is_not_there_has_no_scores(tmp_path: Path) -> None:
    manifest = tiny.write(tmp_path, splits={"train": 8, "val": 3})
    scores = compute_baselines(tiny.config(), OpenSet(str(tmp_path), manifest), CPU)
    assert list(scores) == ["val"]


def test_without_labels_there_is_nothing_to_compare(tmp_path: Path) -> None:
    manifest = tiny.write(tmp_path, labelled=False)
    manifest = manifest.model_copy(update={"classes": tiny.CLASSES})
    assert compute_baselines(tiny.config(), OpenSet(str(tmp_path), manifest), CPU) == {}


def test_rows_of_baselines_say_what_they_are() -> None:
    scores = {"position": 1.0, "kmeans": 3.0, "linear": 9.0}
    found = [(row.kind, row.cells) for row in baseline_rows(scores.items())]
    assert found == [
        ("floor", {"name": "position (floor)", "unsup_miou": 1.0}),
        ("features", {"name": "kmeans (features)", "unsup_miou": 3.0}),
        ("supervised", {"name": "linear (supervised)", "unsup_miou": 9.0}),
    ]
