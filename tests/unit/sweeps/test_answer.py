import shlex
from dataclasses import replace

import pytest

from tests.told import trial
from usseg_ray.scoring.objective import STABILITY
from usseg_ray.scoring.significance import Difference
from usseg_ray.sweeps.answer import Answer, Contender, Findings, conclude, contenders
from usseg_ray.sweeps.finals.scores import Finalist

COMMAND = "python -m usseg_ray.tune --method acseg,stego --out here --seeds=3 --data camvid"
PICKED = "settings picked by labels of val"
BASELINES = {"position": 8.0, "colour": 9.0, "kmeans": 19.5, "linear": 59.0}
CALLED = ("python -m usseg_ray.", "python -m usseg_ray ", "usseg-ray ")
FIRST = Contender("trial_003", "acseg", 21, (28.0, 29.0, 30.0))


def rival(method: str, mean: float, low: float | None, high: float | None) -> Contender:
    scores = tuple(29.0 - mean + step for step in (-1.0, 0.0, 1.0))
    return Contender("trial_001", method, 30, scores, Difference(mean, low, high))


def sweep(*others: Contender, first: Contender = FIRST, half: float | None = 3.0) -> Findings:
    return Findings((first, *others), half, BASELINES, "test", PICKED, COMMAND, 6)


def test_a_clear_winner() -> None:
    found = conclude(sweep(rival("stego", 4.0, 1.0, 7.0), rival("hp", 20.0, 15.0, 25.0)))
    assert found.sentence == (
        "acseg, K = 21: 29.0 ± 1.0 mIoU on test, 4.0 above stego: its model is "
        "finalists/trial_003/model (settings picked by labels of val)."
    )
    assert found.command == ""


def test_what_is_told_from_k_means_alone_says_so() -> None:
    found = conclude(sweep())
    assert "29.0 ± 1.0 mIoU on test, 9.5 above k-means of the same features: " in found.sentence


def test_a_tie_names_the_seeds_that_would_tell() -> None:
    found = conclude(sweep(rival("stego", 2.0, -0.27, 4.27)))
    assert found.sentence == (
        "acseg, K = 21: 29.0 ± 1.0 mIoU on test, 9.5 above k-means of the same features; "
        "stego is within noise: 4 seeds would tell (settings picked by labels of val)."
    )
    words = shlex.split(found.command)
    assert words[-2:] == ["--seeds", "4"]
    assert words[:-2] == shlex.split("python -m usseg_ray.tune --method acseg,stego --data camvid")


def test_a_tie_with_k_means_too() -> None:
    low = replace(FIRST, scores=(20.0, 21.0, 22.0))
    found = conclude(sweep(rival("stego", 0.01, -3.0, 3.02), first=low))
    assert found.sentence == (
        "acseg, K = 21: 21.0 ± 1.0 mIoU on test; stego and k-means of the same features are within "
        "noise: not even 20 seeds would tell, take what costs least "
        "(settings picked by labels of val)."
    )


def test_seeds_that_tell_one_and_not_the_other_are_kept_apart() -> None:
    low = replace(FIRST, scores=(21.0, 22.0, 23.0))
    found = conclude(sweep(rival("stego", 0.01, -3.0, 3.02), first=low, half=2.6))
    assert (
        "stego and k-means of the same features are within noise: 4 seeds would tell k-means of "
        "the same features from it, not even 20 would stego ("
    ) in found.sentence
    assert found.command.endswith("--seeds 4")


def test_nothing_that_seeds_would_tell_has_no_command() -> None:
    found = conclude(sweep(rival("stego", 0.01, -3.0, 3.02)))
    assert "stego is within noise: not even 20 seeds would tell, take what costs least" in (
        found.sentence
    )
    assert found.command == ""


def test_nothing_above_k_means() -> None:
    found = conclude(sweep(first=replace(FIRST, scores=(13.0, 14.0, 15.0))))
    assert found.sentence == (
        "acseg, K = 21: 14.0 ± 1.0 mIoU on test; k-means of the same features scores 5.5 more: "
        "other settings may lead (settings picked by labels of val)."
    )
    assert found.command.endswith("--num-samples 12")


def test_what_the_test_split_prefers_does_not_take_the_lead() -> None:
    found = conclude(sweep(rival("stego", -4.0, -6.0, -2.0)))
    assert found.sentence.startswith("acseg, K = 21: 29.0 ± 1.0 mIoU on test, 9.5 above k-means")
    assert "; stego scores 4.0 more: other settings may lead" in found.sentence


def test_nothing_above_the_floors() -> None:
    found = conclude(sweep(first=replace(FIRST, scores=(6.0, 8.5, 8.0))))
    assert (
        "7.5 ± 1.3 mIoU on test, which is not above the floor position (8.0) and the floor colour "
        "(9.0): nothing was learnt from the images: other settings may"
    ) in found.sentence


def test_too_few_seeds_to_tell_from_a_floor_is_no_proof_of_nothing() -> None:
    wide = replace(FIRST, scores=(25.4, 28.6))
    found = conclude(sweep(first=wide, half=20.7))
    assert "nothing was learnt" not in found.sentence
    assert found.sentence.startswith(
        "acseg, K = 21: 27.0 ± 2.3 mIoU on test; the floor position, the floor colour and k-means "
        "of the same features are within noise: "
    )
    assert " seeds would tell" in found.sentence
    assert "--seeds" in found.command


def test_a_collapse_is_no_result_whatever_it_scores() -> None:
    found = conclude(sweep(rival("stego", 4.0, 1.0, 7.0), first=replace(FIRST, collapsed=2)))
    assert ", but 2 of 3 seeds collapsed: no result to use: other settings" in found.sentence
    assert "above" not in found.sentence


def test_k_means_of_another_k_is_compared_with_that_of_the_datas_own() -> None:
    found = conclude(sweep(first=replace(FIRST, method="kmeans")))
    assert "above k-means of the same features" in found.sentence


def test_finalists_of_one_method_are_told_apart_by_k() -> None:
    found = conclude(sweep(rival("acseg", 1.0, -3.0, 5.0)))
    assert "; acseg, K = 30 is within noise" in found.sentence


def test_finalists_of_one_method_and_k_are_told_apart_by_trial() -> None:
    other = replace(rival("acseg", 9.0, 5.0, 13.0), name="trial_000")
    found = conclude(sweep(rival("acseg", 1.0, -3.0, 5.0), other))
    assert ", 9.0 above trial_000" in found.sentence
    assert "; trial_001 is within noise" in found.sentence


@pytest.mark.parametrize("behind", [1.0, -2.0])
def test_a_finalist_whose_runs_failed_is_not_compared(behind: float) -> None:
    found = conclude(sweep(rival("stego", behind, None, None)))
    assert found.sentence.startswith(
        "acseg, K = 21: 29.0 ± 1.0 mIoU on test, 9.5 above k-means of the same features; stego has "
        "too few seeds that ended to compare: --resume tries the runs that failed again ("
    )
    assert found.command == ""


def test_a_first_one_whose_runs_failed_is_not_asked_for_the_same_seeds_again() -> None:
    other = Contender("trial_001", "stego", 21, (27.0, 28.0, 29.0), Difference(2.0))
    found = conclude(sweep(other, first=replace(FIRST, scores=(29.0,)), half=None))
    assert "--resume tries its other runs, which failed, again" in found.sentence
    assert found.command == ""


def test_one_seed_tells_nothing() -> None:
    other = Contender("trial_001", "stego", 21, (27.0,), Difference(2.0))
    found = conclude(sweep(other, first=replace(FIRST, scores=(29.0,)), half=None))
    assert found.sentence == (
        "acseg, K = 21: 29.0 mIoU on test with one seed; stego has 27.0; k-means of the same "
        "features has 19.5: one seed does not say what is noise, 3 seeds would "
        "(settings picked by labels of val)."
    )
    assert found.command.endswith("--data camvid --seeds 3")


@pytest.mark.parametrize("called", CALLED)
def test_a_single_run_of_train_goes_on_as_a_sweep(called: str) -> None:
    one = replace(FIRST, scores=(29.0,))
    command = f"{called}train --method acseg --out=there --seed 4"
    found = conclude(Findings([one], None, BASELINES, "test", "", command))
    assert found.sentence.endswith(": one seed does not say what is noise, 3 seeds would.")
    expected = f"{called}tune --method acseg --seed 4 --num-samples 1 --seeds 3"
    assert found.command == expected


@pytest.mark.parametrize("program", [f"{called}reproduce" for called in CALLED])
def test_a_run_of_a_published_table_has_no_command(program: str) -> None:
    one = replace(FIRST, scores=(29.0,))
    command = f"{program} cityscapes27 --methods stego"
    assert conclude(Findings([one], None, BASELINES, "test", "", command)).command == ""


def test_what_picked_without_labels_is_named() -> None:
    how = "settings picked without labels, by label_free.view_information on val"
    assert conclude(replace(sweep(), picked=how)).sentence.endswith(f" ({how}).")


@pytest.mark.parametrize(("collapsed", "but"), [(0, ""), (1, ", but it collapsed")])
def test_without_labels_of_a_test_split_pictures_are_what_there_is(
    collapsed: int, but: str
) -> None:
    one = Contender("trial_002", "acseg", 21, collapsed=collapsed, selection=0.4125)
    other, last = (Contender("trial_001", name, 30, selection=0.375) for name in ("hp", "stego"))
    told = "settings picked without labels"
    found = conclude(Findings([one, other, last], picked=told, objective=STABILITY))
    assert found.sentence == (
        f"acseg, K = 21 leads hp by stability (0.412 to 0.375){but}; nothing was scored on test: "
        "the pictures of trial_002 show what it is worth (settings picked without labels)."
    )
    assert conclude(Findings([one])).sentence.startswith(
        "acseg, K = 21 is the only trial that ended"
    )
    level = conclude(Findings([one, replace(other, selection=0.4125)], objective=STABILITY))
    assert "acseg, K = 21 is level with hp by stability (0.412 to 0.412)" in level.sentence
    kept = conclude(Findings([replace(one, clusters="kmeans")])).sentence
    assert kept.startswith("acseg, K = 21, clusters: kmeans is the only trial")


def test_a_sweep_of_failures() -> None:
    assert conclude(Findings([])).sentence.startswith("No trial came to its end")


def test_a_command_that_is_not_known_is_not_told() -> None:
    found = conclude(replace(sweep(rival("stego", 2.0, -0.27, 4.27)), command=""))
    assert "4 seeds would tell" in found.sentence
    # It stands in place of one that an earlier life of the sweep told.
    assert found.tags() == {"usseg.answer": found.sentence, "usseg.answer_command": ""}


def test_finalists_come_before_trials() -> None:
    kinds = {"clusters.kmeans": 0.6, "clusters.probe": 0.7}
    trials = [trial(0, 20.0), trial(1, 30.0, collapsed=1.0, **kinds), trial(2, None)]
    assert contenders(trials, []) == [
        Contender("trial_001", "acseg", 11, collapsed=1, selection=30.0, clusters="probe"),
        Contender("trial_000", "acseg", 10, selection=20.0),
    ]
    scores = {0: {"unsup_miou": 25.0, "collapsed": 1.0}, 1: {"unsup_miou": 27.0, "collapsed": 0.0}}
    (one,) = contenders(trials, [Finalist(trials[0], {}, scores)])
    assert one == Contender("trial_000", "acseg", 10, (25.0, 27.0), None, 1)


def test_mlflow_describes_a_sweep_by_its_answer() -> None:
    assert Answer("a leads", "tune --seeds 4").note() == "a leads\n\n```sh\ntune --seeds 4\n```"
    assert Answer("a leads").note() == "a leads"
