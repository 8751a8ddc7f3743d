from itertools import chain
from pathlib import Path
from typing import cast

import pytest

from tests.evaluations import scored
from tests.finalists import Planned, trial
from usseg_ray.core.table import Spread
from usseg_ray.scoring.arrays import COUNTS, write_counts
from usseg_ray.scoring.significance import Difference
from usseg_ray.sweeps.finals.scores import (
    Finalist,
    final_folder,
    save_final,
    scorings,
    still_scored,
)
from usseg_ray.sweeps.plan import Plan
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.trial import Trial, note_test_scores, trial_name


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


def asked(chosen: list[Trial], seeds: int, folder: Path) -> dict[str, list[tuple[str, str, str]]]:
    found = scorings(cast(Plan, Planned()), chosen, seeds, Storage(folder))
    for one in chain.from_iterable(found.values()):
        assert Path(one.target).parent.name.endswith(f"seed{one.job.config.seed}")
    return {
        name: [(one.trial, Path(one.target).parent.name, one.checkpoint) for one in several]
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
