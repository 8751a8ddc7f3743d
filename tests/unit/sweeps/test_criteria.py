from pathlib import Path

import numpy as np
import pytest
import torch

from usseg_ray.core.records import read_json
from usseg_ray.scoring.arrays import ARRAYS
from usseg_ray.scoring.objective import CONSENSUS, MODULARITY, STABILITY
from usseg_ray.scoring.partitions import adjusted_rand_index
from usseg_ray.sweeps import criteria
from usseg_ray.sweeps.criteria import (
    CRITERIA_FILE,
    Trust,
    add_consensus,
    choice,
    criterion_trust,
    save_trust,
)
from usseg_ray.trials.trial import Status, Trial, load_trials

SCORES = (10.0, 20.0, 30.0, 40.0)


def trial(index: int, metrics: dict[str, float], status: Status = "FINISHED") -> Trial:
    return Trial(index, "acseg", {}, {}, 1, status, metrics)


def trials(name: str, *values: float) -> list[Trial]:
    return [
        trial(index, {"unsup_miou": score, name: value})
        for index, (score, value) in enumerate(zip(SCORES, values, strict=True))
    ]


def test_a_criterion_that_ranks_as_labels_do() -> None:
    (found,) = criterion_trust(trials(STABILITY, 0.1, 0.2, 0.3, 0.9))
    assert (found.criterion, found.trials, found.chosen) == (STABILITY, 4, "trial_003")
    assert found.spearman == pytest.approx(1)
    assert (found.miou, found.regret, found.random_regret) == (40, 0, 15)


def test_a_criterion_that_ranks_the_other_way_round() -> None:
    (found,) = criterion_trust(trials(MODULARITY, 4, 3, 2, 1))
    assert found.spearman == pytest.approx(-1)
    assert (found.chosen, found.regret) == ("trial_000", 30)


def test_a_criterion_that_tells_nothing_apart() -> None:
    (found,) = criterion_trust(trials(CONSENSUS, 1, 1, 1, 1))
    assert found.spearman is None
    assert choice(found) == "trial_000 (+3)"
    assert (found.miou, found.regret, found.random_regret) == (25, 15, 15)


def test_equal_trials_count_by_their_mean_whatever_their_order() -> None:
    rows = trials(STABILITY, 1, 3, 2, 3)
    (found,) = criterion_trust(rows)
    assert (found.chosen, found.equal, found.miou) == ("trial_001", 1, 30)
    assert criterion_trust(reversed(rows)) == [found]


def test_the_most_trustworthy_comes_first() -> None:
    rows = trials(STABILITY, 4, 3, 2, 1)
    for row, value in zip(rows, (1, 2, 3, 4), strict=True):
        row.metrics[MODULARITY] = value
    assert [found.criterion for found in criterion_trust(rows)] == [MODULARITY, STABILITY]


def test_few_trials_and_failed_ones_say_nothing() -> None:
    assert criterion_trust(trials(STABILITY, 1, 2, 3, 4)[:3]) == []
    assert criterion_trust([trial(i, {"unsup_miou": float(i)}) for i in range(5)]) == []
    assert criterion_trust([trial(i, {STABILITY: float(i)}) for i in range(5)]) == []
    rows = trials(STABILITY, 1, 2, 3, 4)
    rows[0].status = "FAILED"
    assert criterion_trust(rows) == []
    failed = trial(4, {"unsup_miou": 90.0, STABILITY: 9.0}, "FAILED")
    (found,) = criterion_trust([*trials(STABILITY, 1, 2, 3, 4), failed])
    assert (found.trials, found.regret) == (4, 0)


def test_what_was_found_is_kept(tmp_path: Path) -> None:
    save_trust([], tmp_path)
    assert not (tmp_path / CRITERIA_FILE).exists()
    found = criterion_trust(trials(STABILITY, 1, 1, 1, 1))
    save_trust(found, tmp_path)
    kept = read_json(tmp_path / CRITERIA_FILE, list[Trust], "")
    assert kept == found


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


def test_a_trial_whose_maps_are_damaged_is_left_out(tmp_path: Path) -> None:
    trials = [leave(tmp_path, i, "acseg", maps(i)) for i in range(3)]
    (tmp_path / trials[1].name / ARRAYS).write_bytes(b"PK")
    assert add_consensus(trials, tmp_path, trials, tmp_path) == [trials[0], trials[2]]
    assert trials[0].metrics[CONSENSUS] == pytest.approx(index_of(maps(0), maps(2)))


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


def test_of_many_trials_of_a_method_some_are_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criteria, "MOST_PEERS", 3)
    methods = ("a",) * 6 + ("b",) * 2
    trials = [leave(tmp_path, i, method, maps(i)) for i, method in enumerate(methods)]
    add_consensus(trials, tmp_path, trials, tmp_path)
    # Every second of six; both of two.
    expected = np.mean([index_of(maps(7), maps(i)) for i in (0, 2, 4)])
    assert trials[7].metrics[CONSENSUS] == pytest.approx(expected)
    expected = np.mean([index_of(maps(1), maps(i)) for i in (6, 7)])
    assert trials[1].metrics[CONSENSUS] == pytest.approx(expected)
