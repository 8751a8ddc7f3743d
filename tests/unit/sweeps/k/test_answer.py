import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usseg_ray.scoring.arrays import ARRAYS
from usseg_ray.scoring.objective import STABILITY, WITHOUT_LABELS
from usseg_ray.sweeps.k.answer import aligned, answer, chosen, write_answer
from usseg_ray.trials.trial import Trial


def trial(index: int, k: int, seed: int, value: float | None = None) -> Trial:
    without = k / 6 if value is None else value
    metrics = {"unsup_miou": 50.0 - abs(k - 5) + seed, STABILITY: 1 / k, WITHOUT_LABELS: without}
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
    verdict = found.verdict()
    assert verdict.startswith("acseg: 5 clusters (unsup_miou 50.5 ± 0.7, 2 seeds). Too few seeds")
    assert "%" not in verdict
    assert (
        "The criteria disagree: view_information alone takes 6, stability alone takes 4" in verdict
    )
    assert [point.k for point in found.points] == [4, 5, 6]


def test_a_plateau_and_the_edge_are_said() -> None:
    rows = [
        trial(10 * k + seed, k, seed, value)
        for k, values in {4: (0.1, 0.2, 0.1), 8: (0.5, 0.7, 0.6), 16: (0.6, 0.6, 0.7)}.items()
        for seed, value in enumerate(values)
    ]
    said = answer(rows, "acseg", WITHOUT_LABELS).verdict()
    assert said.startswith("acseg: between 8 and 16 clusters; 16 chosen (view_information 0.633 ± ")
    assert "3 seeds, best in" in said
    assert "16 is the largest K tried: more may be better" in said
    assert "stability alone takes 4." in said


def test_without_labels_there_is_one_answer() -> None:
    rows = trials()[:3]
    for row in rows:
        row.metrics = {STABILITY: row.metrics[STABILITY]}
    assert answer(rows, "acseg", STABILITY).verdict() == (
        "acseg: 4 clusters (stability 0.250, one seed). Too few seeds to say how sure: --seeds 3. "
        "4 is the smallest K tried: fewer may be better (--space with a range of num_clusters)."
    )


def test_the_model_of_the_best_method_at_its_k_is_chosen() -> None:
    rows = trials()
    other = [replace(row, index=row.index + 10, method="kmeans") for row in trials()]
    for row in other:
        row.metrics = row.metrics | {"unsup_miou": row.metrics["unsup_miou"] - 20}
    rows[1].checkpoint = rows[4].checkpoint = other[1].checkpoint = "somewhere"
    found = [answer(rows, "acseg", "unsup_miou"), answer(other, "kmeans", "unsup_miou")]
    best = chosen(found, [*rows, *other], "unsup_miou")
    assert best is rows[4]
    assert (best.settings["num_clusters"], best.settings["seed"]) == (5, 1)
    rows[1].checkpoint = rows[4].checkpoint = None
    assert chosen(found, [*rows, *other], "unsup_miou") is None
    assert chosen([answer([], "acseg", "unsup_miou")], [], "unsup_miou") is None


def test_no_trial_no_answer(tmp_path: Path) -> None:
    found = answer([], "acseg", STABILITY)
    assert found.verdict().startswith("acseg: no K stands out")
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
    assert written["verdict"] == found.verdict()
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
