from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.finalists import trial
from usseg_ray.sweeps.finals.chosen import again, certain, ended_runs, pick, seeds_of
from usseg_ray.trials.trial import EndStatus, Status, Trial

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


def test_a_finalist_is_certain_where_no_open_trial_can_take_its_place() -> None:
    ended = [trial(0, "acseg", 30), trial(1, "acseg", 40), trial(2, "acseg", 35)]
    assert certain(ended, {"trial_003": "acseg"}, 3) == [ended[1], ended[2]]
    assert certain(ended, {"trial_003": "acseg", "trial_004": "acseg"}, 3) == [ended[1]]
    assert certain(ended, {}, 2) == [ended[1], ended[2]]
    # Each method has one first: of a method whose last trial is open, none is known.
    assert certain([*ended, trial(3, "hp", 90)], {"trial_004": "hp"}, 2) == [ended[1]]
    assert certain(ended, {"trial_003": "acseg"}, 1) == []


@given(st.data())
def test_what_is_certain_is_chosen_however_the_others_end(data: st.DataObject) -> None:
    methods = st.sampled_from(["acseg", "hp", "stego"])
    scores = st.none() | st.integers(0, 9).map(float)
    ends = st.sampled_from(get_args(EndStatus))
    trials = [
        trial(index, data.draw(methods), data.draw(scores), data.draw(ends))
        for index in range(data.draw(st.integers(0, 8)))
    ]
    ended = data.draw(st.permutations(trials))[: data.draw(st.integers(0, len(trials)))]
    names = {one.name for one in ended}
    left = {one.name: one.method for one in trials if one.name not in names}
    count = data.draw(st.integers(0, 5))
    found = certain(ended, left, count)
    assert [one for one in pick(trials, count) if one in found] == found
    if not left:
        assert found == pick(trials, count)
