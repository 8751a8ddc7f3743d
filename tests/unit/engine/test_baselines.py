from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from usseg_ray.data import reading
from usseg_ray.data.manifest import Manifest
from usseg_ray.engine import run
from usseg_ray.engine.baselines import (
    BASELINES,
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


def test_scores_are_those_of_each_baseline_by_itself(
    prepared: tuple[str, Manifest], found: Baselines
) -> None:
    def alone(name: str, split: str) -> float:
        asked = {"splits": (split,), "names": (name,)}
        return compute_baselines(tiny.config(), OpenSet(*prepared), CPU, **asked)[split][name]

    for split, scores in found.items():
        assert {name: alone(name, split) for name in BASELINES} == scores


def test_every_image_is_decoded_once_and_one_probe_is_trained(
    prepared: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counter[str]()
    for module, name in ((reading, "decode_image"), (run, "fit_linear_probe"), (run, "show")):
        called = getattr(module, name)

        def counted(*args: Any, called: Any = called, name: str = name, **options: Any) -> Any:
            counts[name] += 1
            return called(*args, **options)

        monkeypatch.setattr(module, name, counted)
    compute_baselines(tiny.config(), OpenSet(*prepared), CPU)
    # Training images once for the clusters, and once with their labels for the probe.
    images = 2 * tiny.SPLITS["train"] + tiny.SPLITS["val"] + tiny.SPLITS["test"]
    assert counts == {"decode_image": images, "fit_linear_probe": 1}


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
