from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import cast

import pytest

from tests import tiny
from tests.evaluations import scored
from usseg_ray.core.table import Spread
from usseg_ray.scoring.arrays import COUNTS, write_counts
from usseg_ray.scoring.significance import Difference
from usseg_ray.sweeps.finals import (
    Finalist,
    again,
    ended_runs,
    final_folder,
    pick,
    save_final,
    scorings,
    seeds_of,
    still_scored,
)
from usseg_ray.sweeps.plan import Plan
from usseg_ray.sweeps.space import Sample
from usseg_ray.trials.job import Job
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.trial import Status, Trial, note_test_scores, trial_name


def trial(
    index: int, method: str, score: float | None, status: Status = "FINISHED", seed: int = 5
) -> Trial:
    metrics = {} if score is None else {"unsup_miou": score}
    sample = {"method.gamma": float(index)}
    return Trial(index, method, sample, {"seed": seed}, 3, status, metrics, "somewhere")


TRIALS = [
    trial(0, "acseg", 30),
    trial(1, "hp", 20),
    trial(2, "acseg", 40),
    trial(3, "acseg", 35),
    trial(4, "kmeans", 10),
    trial(5, "hp", None, "FAILED"),
]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [2]), (2, [2, 1]), (3, [2, 1, 4]), (4, [2, 3, 1, 4]), (9, [2, 3, 0, 1, 4])],
)
def test_every_method_has_a_finalist_before_one_has_two(count: int, expected: list[int]) -> None:
    assert [t.index for t in pick(TRIALS, count)] == expected


def test_what_left_no_state_is_no_finalist() -> None:
    lost = trial(0, "acseg", 50)
    lost.checkpoint = None
    assert pick([lost, trial(1, "acseg", 40)], 3)[0].index == 1


def test_a_trial_is_trained_again_with_other_seeds_only() -> None:
    assert seeds_of(trial(0, "hp", 1), 3) == [5, 6, 7]
    draws = again([trial(2, "acseg", 40), trial(1, "hp", 20)], 3)
    assert list(draws) == [
        "trial_002-seed6",
        "trial_002-seed7",
        "trial_001-seed6",
        "trial_001-seed7",
    ]
    assert draws["trial_002-seed6"] == ("acseg", {"method.gamma": 2.0})
    assert again([trial(0, "hp", 1)], 1) == {}


@pytest.mark.parametrize("status", ["STOPPED", "KILLED"])
def test_one_that_was_cut_short_is_trained_to_its_end(status: Status) -> None:
    assert list(again([trial(0, "hp", 1, status)], 2)) == ["trial_000-seed5", "trial_000-seed6"]


def run(of: Trial, seed: int, status: Status = "FINISHED") -> Trial:
    return replace(of, status=status, seed=seed)


def test_only_runs_that_came_to_their_end_are_scored() -> None:
    whole, cut = trial(0, "hp", 2), trial(1, "hp", 1, "STOPPED")
    trained = [run(whole, 6, "FAILED"), run(whole, 7), run(cut, 5), run(cut, 6, "KILLED")]
    found = ended_runs([whole, cut], 3, trained)
    assert found == [(whole, 5, whole), (whole, 7, trained[1]), (cut, 5, trained[2])]


def test_a_trial_that_failed_on_its_way_is_no_finalist() -> None:
    assert pick([trial(0, "hp", 90, "FAILED"), trial(1, "hp", 10)], 2) == [trial(1, "hp", 10)]


def test_the_seeds_are_averaged() -> None:
    scores = {5: {"unsup_miou": 30.0, "collapsed": 0.0}, 6: {"unsup_miou": 34.0, "collapsed": 1.0}}
    found = Finalist(trial(0, "hp", 1), {}, scores, Difference(1.0, -1.0, 3.0))
    assert found.spread("unsup_miou") == Spread.of([30.0, 34.0])
    assert found.spread("nothing") is None
    assert found.metrics() == {
        "test.unsup_miou": 32,
        "test.unsup_miou_std": pytest.approx(2 * 2**0.5),
        "test.collapsed": 0.5,
        "test.behind": 1,
        "test.behind_low": -1,
        "test.behind_high": 3,
    }


def test_one_seed_has_no_deviation() -> None:
    found = Finalist(trial(0, "hp", 1), {}, {5: {"unsup_miou": 30.0}})
    assert found.spread("unsup_miou") == Spread(30, None, 1)
    assert found.metrics() == {"test.unsup_miou": 30}


def test_a_run_whose_counts_are_damaged_is_scored_again(tmp_path: Path) -> None:
    one = trial(0, "stego", 30.0)
    names = [trial_name(0, seed) for seed in (0, 1, 2)]
    save_final({name: {"unsup_miou": 30.0} for name in names}, tmp_path)
    for seed in (0, 1):
        write_counts(scored(), final_folder(tmp_path, one, seed))
    damaged = final_folder(tmp_path, one, 1) / COUNTS
    damaged.write_bytes(damaged.read_bytes()[:40])
    # Counts that are kept elsewhere are not doubted.
    assert still_scored(names, Storage(tmp_path)).keys() == {names[0], names[2]}


def test_what_a_process_noted_counts_before_the_table_of_the_sweep(tmp_path: Path) -> None:
    one = trial(0, "stego", 30.0)
    names = [trial_name(0, seed) for seed in (0, 1, 2)]
    save_final({name: {"unsup_miou": 1.0} for name in names[:2]}, tmp_path)
    for seed, score in ((1, 2.0), (2, 3.0)):
        note_test_scores(final_folder(tmp_path, one, seed), {"unsup_miou": score})
    found = still_scored(names, Storage(tmp_path))
    assert [found[name]["unsup_miou"] for name in names] == [1.0, 2.0, 3.0]


class Planned:
    """Stands for a plan; its jobs are told apart by their seed."""

    def job(self, method: str, sample: Sample, seed: int) -> Job:  # noqa: ARG002
        return Job(method, tiny.config(seed=seed), "/data")


def asked(chosen: list[Trial], seeds: int, folder: Path) -> dict[str, list[tuple[str, str, str]]]:
    found = scorings(cast(Plan, Planned()), chosen, seeds, Storage(folder))
    for one in chain.from_iterable(found.values()):
        assert Path(one.target).parent.name.endswith(f"seed{one.job.config.seed}")
    return {
        name: [
            (str(Path(one.trial).relative_to(folder)), Path(one.target).parent.name, one.checkpoint)
            for one in several
        ]
        for name, several in found.items()
    }


def test_the_first_run_of_a_finalist_scores_the_trial_that_became_it_as_well(
    tmp_path: Path,
) -> None:
    whole, cut = trial(0, "hp", 2), trial(1, "hp", 1, "STOPPED")
    own = ("trial_000", "trial_000-seed5", "somewhere")
    again = {
        name: ("finalists/" + name, name, "")
        for name in ("trial_000-seed6", "trial_000-seed7", "trial_001-seed5", "trial_001-seed6")
    }
    expected = {name: [one] for name, one in again.items() if not name.endswith("seed7")}
    expected["trial_000-seed6"].insert(0, own)
    assert asked([whole, cut], 2, tmp_path) == expected
    note_test_scores(final_folder(tmp_path, whole, 6), {"unsup_miou": 1.0})
    expected["trial_000-seed6"] = [own]
    assert asked([whole, cut], 2, tmp_path) == expected


def test_where_nothing_is_trained_again_no_process_scores_beside_it(tmp_path: Path) -> None:
    assert asked([trial(0, "hp", 2)], 1, tmp_path) == {}
