import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usseg_ray.scoring.arrays import ARRAYS
from usseg_ray.scoring.objective import STABILITY, WITHOUT_LABELS
from usseg_ray.sweeps.k_answer import aligned, answer, write_answer
from usseg_ray.trials.trial import Trial


def trial(index: int, k: int, seed: int) -> Trial:
    metrics = {"unsup_miou": 50.0 - abs(k - 5) + seed, STABILITY: 1 / k, WITHOUT_LABELS: k / 6}
    return Trial(
        index, "acseg", {}, {"num_clusters": k, "seed": seed}, 1, "FINISHED", metrics, seed=None
    )


def trials() -> list[Trial]:
    return [
        trial(i, k, seed) for i, (seed, k) in enumerate((s, k) for s in (0, 1) for k in (4, 5, 6))
    ]


def test_the_answer_by_labels_stands_beside_the_one_without() -> None:
    found = answer(trials(), "acseg", "unsup_miou")
    assert [(advice.metric, advice.k) for advice in found.advice] == [
        ("unsup_miou", 5),
        (WITHOUT_LABELS, 6),
        (STABILITY, 4),
    ]
    first, _, second = found.sentences()
    assert first.startswith("acseg: K = 5 by unsup_miou 50.5 ± 0.7; the best of 100 % of draws of")
    assert "have K = 5 best" in first
    assert second.startswith("acseg: K = 4 by stability 0.250; ")
    assert [point.k for point in found.points] == [4, 5, 6]


def test_without_labels_there_is_one_answer() -> None:
    rows = trials()[:3]
    for row in rows:
        row.metrics = {STABILITY: row.metrics[STABILITY]}
    (only,) = answer(rows, "acseg", STABILITY).sentences()
    assert only == "acseg: K = 4 by stability 0.250; one seed says nothing of its uncertainty."


def test_no_trial_no_answer(tmp_path: Path) -> None:
    found = answer([], "acseg", STABILITY)
    assert found.sentences() == []
    write_answer(found, [], tmp_path)
    assert [path.name for path in (tmp_path / "k").iterdir()] == ["acseg.json"]


@pytest.mark.parametrize("shared", [True, False])
def test_the_answer_is_written_and_drawn(tmp_path: Path, shared: bool) -> None:
    rows, random = trials(), np.random.default_rng(0)
    pixels = random.integers(0, 255, (3, 16, 16, 3)).astype(np.uint8)
    for row in rows:
        (tmp_path / row.name).mkdir()
        own = pixels if shared else random.integers(0, 255, pixels.shape).astype(np.uint8)
        clusters = random.integers(0, row.settings["num_clusters"], (3, 16, 16))
        # Of images that only one trial kept, nothing is drawn.
        extra = random.integers(0, 255, (1, 16, 16, 3)).astype(np.uint8)
        arrays = {"pixels": np.concatenate([own, extra]), "clusters": np.r_[clusters, clusters[:1]]}
        np.savez_compressed(tmp_path / row.name / ARRAYS, **arrays)
    found = answer(rows, "acseg", "unsup_miou")
    write_answer(found, rows, tmp_path)
    written = json.loads((tmp_path / "k" / "acseg.json").read_text())
    assert [advice["k"] for advice in written["advice"]] == [5, 6, 4]
    assert Image.open(tmp_path / "k" / "acseg.png").width > 300
    maps = tmp_path / "k" / "acseg-maps.png"
    assert maps.exists() == shared
    if shared:
        assert Image.open(maps).width > 4 * 300


def test_clusters_take_the_names_of_those_they_overlap() -> None:
    base = np.array([[[0, 0, 1, 1, 2, 2]]])
    renamed = np.array([[[2, 2, 0, 0, 1, 1]]])
    assert np.array_equal(aligned(renamed, base), base)
    finer = np.array([[[3, 3, 1, 1, 2, 0]]])
    found = aligned(finer, base)
    assert found[0, 0, :4].tolist() == [0, 0, 1, 1]
    assert sorted(found[0, 0, 4:].tolist()) == [2, 3]
    coarser = np.array([[[0, 0, 0, 0, 1, 1]]])
    assert aligned(coarser, base)[0, 0].tolist() in ([0, 0, 0, 0, 2, 2], [1, 1, 1, 1, 2, 2])
