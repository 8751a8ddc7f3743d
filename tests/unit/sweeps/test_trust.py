from pathlib import Path

import pytest

from usseg_ray.objective import CONSENSUS, MODULARITY, STABILITY
from usseg_ray.sweeps.trust import CRITERIA_FILE, choice, criterion_trust, load_trust, save_trust
from usseg_ray.trials import Status, Trial

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
    assert load_trust(tmp_path) == []
    found = criterion_trust(trials(STABILITY, 1, 1, 1, 1))
    save_trust(found, tmp_path)
    assert load_trust(tmp_path) == found
