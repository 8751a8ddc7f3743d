from pathlib import Path

import numpy as np
import pytest
import torch

from usseg_ray.objective import CONSENSUS
from usseg_ray.ops.partitions import adjusted_rand_index
from usseg_ray.record import ARRAYS
from usseg_ray.sweeps.consensus import add_consensus
from usseg_ray.trials import Status, Trial, load_trials


def maps(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (2, 4, 4)).astype(np.int16)


def leave(
    home: Path, index: int, method: str, fixed: np.ndarray | None, status: Status = "FINISHED"
) -> Trial:
    trial = Trial(index, method, {}, {}, 1, status, {"epoch": 1.0})
    trial.save(home)
    if fixed is not None:
        np.savez_compressed(home / trial.name / ARRAYS, fixed=fixed)
    return trial


def index_of(one: np.ndarray, other: np.ndarray) -> float:
    first, second = (torch.from_numpy(m.astype(np.int64)).flatten() for m in (one, other))
    return adjusted_rand_index(first, second)


def test_trials_of_one_method_are_compared_with_each_other(tmp_path: Path) -> None:
    trials = [leave(tmp_path, i, "acseg", maps(i)) for i in range(3)]
    changed = add_consensus(trials, tmp_path, trials, tmp_path)
    assert changed == trials
    expected = (index_of(maps(0), maps(1)) + index_of(maps(0), maps(2))) / 2
    assert trials[0].metrics[CONSENSUS] == pytest.approx(expected)
    assert load_trials(tmp_path) == trials


def test_of_several_methods_every_other_one_counts_alike(tmp_path: Path) -> None:
    methods = ("acseg", "acseg", "kmeans", "kmeans", "stego")
    trials = [leave(tmp_path, i, method, maps(i)) for i, method in enumerate(methods)]
    add_consensus(trials[:1], tmp_path, trials, tmp_path)
    others = [index_of(maps(0), maps(i)) for i in range(5)]
    expected = ((others[2] + others[3]) / 2 + others[4]) / 2
    assert trials[0].metrics[CONSENSUS] == pytest.approx(expected)
    assert CONSENSUS not in trials[1].metrics


def test_names_of_clusters_do_not_matter(tmp_path: Path) -> None:
    renamed = np.array([2, 0, 1], np.int16)[maps(0)]
    trials = [leave(tmp_path, 0, "a", maps(0)), leave(tmp_path, 1, "b", renamed)]
    add_consensus(trials, tmp_path, trials, tmp_path)
    assert [trial.metrics[CONSENSUS] for trial in trials] == [1, 1]


def test_trials_without_maps_are_passed_over(tmp_path: Path) -> None:
    good = leave(tmp_path, 0, "a", maps(0))
    none = leave(tmp_path, 1, "b", None)
    failed = leave(tmp_path, 2, "b", maps(0), "FAILED")
    empty = leave(tmp_path, 3, "b", np.zeros((0, 0, 0), np.int16))
    trials = [good, none, failed, empty]
    assert add_consensus(trials, tmp_path, trials, tmp_path) == []
    single = leave(tmp_path, 4, "b", np.zeros((2, 4, 4), np.int16))
    assert add_consensus([good], tmp_path, [*trials, single], tmp_path) == [good]
    assert good.metrics[CONSENSUS] == 0


def test_a_finalist_is_not_compared_with_the_trial_it_repeats(tmp_path: Path) -> None:
    home, sweep = tmp_path / "finalists", tmp_path
    trials = [leave(sweep, 0, "a", maps(0)), leave(sweep, 1, "b", maps(1))]
    again = leave(home, 0, "a", maps(0))
    add_consensus([again], home, trials, sweep)
    assert again.metrics[CONSENSUS] == pytest.approx(index_of(maps(0), maps(1)))


def test_what_is_known_already_is_not_written_again(tmp_path: Path) -> None:
    trials = [leave(tmp_path, 0, "a", maps(0)), leave(tmp_path, 1, "b", maps(1))]
    assert add_consensus(trials, tmp_path, trials, tmp_path) == trials
    again = load_trials(tmp_path)
    assert add_consensus(again, tmp_path, again, tmp_path) == []
