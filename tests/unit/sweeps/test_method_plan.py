from pathlib import Path

import pytest

from tests.planned import BOTH, only, plan
from usseg_ray.core.config import flatten
from usseg_ray.core.errors import UserError


def test_an_empty_space_has_nothing_to_sweep(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("fixed: {}\nspace: {}")
    with pytest.raises(UserError, match="`space` is empty, so all 6 trials would be the same"):
        plan(space=str(space))
    assert plan(space=str(space), num_samples=1).draws == {"trial_000": ("acseg", {})}


def test_a_methods_key_goes_to_the_methods_that_have_it() -> None:
    assigned = {"method.gamma": 1.5, "method.restarts": 3, "train.epochs": 2}
    made = plan(names=[*BOTH, "colour"], assigned=assigned)
    found = {job.method: flatten(job.config) for job in made.first_jobs()}
    having = {
        name: {key: own[key] for key in assigned if key in own} for name, own in found.items()
    }
    assert having == {
        "acseg": assigned,
        "kmeans": {"method.restarts": 3, "train.epochs": 2},
        "colour": {"method.restarts": 3, "train.epochs": 2},
    }


def test_precedence_of_defaults_space_and_set(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "fixed: {train.epochs: 9, train.batch_size: 8, data.crop_scale: 0.9}\n"
        "space: {method.gamma: {uniform: [1, 2]}, method.num_prototypes: {choice: [2, 3]}}"
    )
    made = plan(space=str(space), assigned={"train.epochs": 4, "method.gamma": 0.7})
    assert made.config.train.epochs == 4
    assert made.config.train.batch_size == 8
    assert made.config.data.train_size == 144
    assert made.config.method.model_dump()["gamma"] == 0.7
    assert list(only(made).space.space) == ["method.num_prototypes"]
    config = made.job("acseg", {"method.num_prototypes": 3}).config
    drawn = config.method.model_dump()
    assert (drawn["gamma"], drawn["num_prototypes"]) == (0.7, 3)
    assert config.data.name == "synthetic"
