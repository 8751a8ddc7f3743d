from dataclasses import replace
from pathlib import Path

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.trials.trial import (
    ENDED,
    TRIAL_FILE,
    Status,
    Trial,
    best_of_each,
    find_run,
    load_trials,
    number_and_seed,
    place_of,
    ranked,
)


def trial(index: int, score: float | None = None, status: Status = "FINISHED") -> Trial:
    metrics = {} if score is None else {"unsup_miou": score}
    return Trial(index, "acseg", {"seed": index}, {"seed": index}, 3, status, metrics)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    record = Trial(
        index=3,
        method="cause",
        sample={"method.gamma": 1.5},
        settings={"method.gamma": 1.5, "backbone.mean": [0.1, 0.2, 0.3], "num_clusters": None},
        epochs=8,
        status="STOPPED",
        metrics={"epoch": 2.0, "unsup_miou": 31.25},
        checkpoint="/somewhere/epoch_0002",
        reason="stopped by the scheduler",
    )
    record.save(tmp_path)
    assert load_trials(tmp_path) == [record]
    assert [path.name for path in (tmp_path / "trial_003").iterdir()] == [TRIAL_FILE]


def test_saving_again_replaces(tmp_path: Path) -> None:
    record = trial(0)
    record.save(tmp_path)
    record.metrics["unsup_miou"] = 5.0
    record.save(tmp_path)
    (found,) = load_trials(tmp_path)
    assert found.score == 5.0


def test_records_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for index in (10, 2, 0):
        trial(index).save(tmp_path)
    assert [found.index for found in load_trials(tmp_path)] == [0, 2, 10]


def test_an_unfinished_write_is_no_record(tmp_path: Path) -> None:
    trial(0).save(tmp_path)
    (tmp_path / "trial_001").mkdir()
    (tmp_path / "trial_001" / f".{TRIAL_FILE}.tmp").write_text('{"index"')
    assert [found.index for found in load_trials(tmp_path)] == [0]


def test_best_first_then_those_without_a_score() -> None:
    trials = [trial(0, 10.0), trial(1), trial(2, 30.0), trial(3, 10.0), trial(4, 0.0), trial(5)]
    assert [t.index for t in ranked(trials)] == [2, 0, 3, 4, 1, 5]


def test_the_best_of_each_method_starts_with_the_best_of_all() -> None:
    rows = [("a", 10.0), ("b", 30.0), ("a", 20.0), ("c", 5.0), ("b", 40.0), ("d", None)]
    trials = [
        Trial(index, method, {}, {}, 1, metrics={} if s is None else {"unsup_miou": s})
        for index, (method, s) in enumerate(rows)
    ]
    for one in trials:
        one.checkpoint = "somewhere"
    assert [t.index for t in best_of_each(trials)] == [4, 2, 3]
    # What left no state cannot be scored again.
    trials[4].checkpoint = None
    assert [t.index for t in best_of_each(trials)] == [1, 2, 3]
    assert best_of_each([]) == []


@pytest.mark.parametrize(
    ("index", "seed", "name"),
    [(0, None, "trial_000"), (42, None, "trial_042"), (3, 0, "trial_003-seed0"), (1000, 12, None)],
)
def test_names(index: int, seed: int | None, name: str | None) -> None:
    record = replace(trial(index), seed=seed)
    assert record.name == (name or "trial_1000-seed12")
    assert number_and_seed(record.name) == (index, seed)


def test_what_a_resumed_sweep_keeps() -> None:
    assert ENDED == ("FINISHED", "STOPPED")


def test_what_lies_hidden_beside_runs_is_not_offered_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / ".prepared").mkdir(parents=True)
    with pytest.raises(UserError, match="which is empty"):
        find_run("lost")
    (tmp_path / "runs" / "first").mkdir()
    with pytest.raises(UserError, match=r"the latest are first\.$"):
        find_run("lost")


def test_a_finalist_trained_again_lies_apart_from_the_trials() -> None:
    assert place_of("trial_003") == trial(3).place == "trial_003"
    assert place_of("trial_003-seed0") == replace(trial(3), seed=0).place
    assert place_of("trial_003-seed0") == "finalists/trial_003-seed0"
