from pathlib import Path

import pytest

from tests import tiny
from tests.planned import BOTH, TINY_SETTINGS, UNSET_K, only, plan, template
from usseg_ray.config import UserError
from usseg_ray.data import synthetic
from usseg_ray.job import Draw
from usseg_ray.sweeps.plan import planned_epochs


def test_trials_differ_in_k_by_the_number_of_classes() -> None:
    one = template(plan())
    classes = len(synthetic.CLASSES)
    for ratio in (0.75, 1.0, 1.5):
        settings = one.job({"clusters_per_class": ratio}).settings
        assert settings["num_clusters"] == round(ratio * classes)


def test_a_single_run_has_one_sample() -> None:
    made = plan(space=None, num_samples=1)
    assert made.draws == (Draw("acseg", {}),)
    assert only(made).space.space == {}


def test_optuna_plans_no_samples() -> None:
    made = plan(search="optuna")
    assert made.draws == ()
    assert made.num_trials == 6
    assert made.rounds == (("acseg", {}), *[("acseg", None)] * 5)
    assert plan(search="optuna", space=None, num_samples=1).draws == (Draw("acseg", {}),)
    both = plan(names=BOTH, search="optuna", num_samples=2)
    assert both.rounds == (("acseg", {}), ("kmeans", {}), ("acseg", None), ("kmeans", None))
    assert both.draws == ()


def test_the_seed_moves_the_samples() -> None:
    assert plan().draws == plan().draws
    assert plan(assigned={"seed": 1}).draws != plan().draws


def test_trials_go_round_the_methods_and_start_with_defaults() -> None:
    made = plan(names=["acseg", "kmeans", "position"], num_samples=2)
    assert [draw.method for draw in made.draws] == 2 * ["acseg", "kmeans", "position"]
    assert all(draw.sample == {} for draw in made.draws[:3])
    assert set(made.draws[3].sample) > set(made.draws[4].sample) == {"clusters_per_class"}
    assert made.num_trials == 6


def test_a_method_draws_alone_what_it_draws_in_company() -> None:
    together = [d for d in plan(names=BOTH).draws if d.method == "acseg"]
    assert together == list(plan().draws)


def test_a_method_with_nothing_left_to_sample_has_one_trial() -> None:
    made = plan(names=BOTH, num_samples=3, assigned={"clusters_per_class": 1.0})
    assert [draw.method for draw in made.draws] == ["acseg", "kmeans", "acseg", "acseg"]
    assert made.num_trials == 4


def test_epochs_of_a_trial_and_of_the_longest_one(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("space: {train.epochs: {randint: [2, 9]}}")
    made = plan(space=str(space))
    assert planned_epochs(template(made).job({"train.epochs": 4})) == 4
    assert made.max_epochs == 9
    assert planned_epochs(template(plan(names=["kmeans"]), "kmeans").job({})) == 1
    assert plan(names=BOTH).max_epochs == 2


def test_the_question_of_k_tries_every_k_with_every_seed(tmp_path: Path) -> None:
    asked = {"question": "k", "num_samples": 2, "seeds": 2, "assigned": UNSET_K | {"seed": 4}}
    tiny.write(tmp_path / "whole")
    made = plan(data=str(tmp_path / "whole"), **asked)
    settings = [made.jobs().job(draw).settings for draw in made.draws]
    found = [(s["num_clusters"], s["seed"]) for s in settings]
    assert found == [(2, 4), (6, 4), (2, 5), (6, 5)]
    tiny.write(tmp_path / "bare", labelled=False)
    made = plan(data=str(tmp_path / "bare"), **asked)
    assert [draw.sample["num_clusters"] for draw in made.draws] == [4, 32, 4, 32]
    with pytest.raises(UserError, match="leave --set num_clusters out"):
        plan(data=str(tmp_path / "whole"), question="k", assigned=TINY_SETTINGS)
