from pathlib import Path

import pytest

from tests.planned import BOTH, TINY_SETTINGS, only, plan, request
from tests.unit.models.conftest import kept
from usseg_ray.core.config import build_config, flatten
from usseg_ray.core.errors import UserError
from usseg_ray.settings.primaps import PriMaPsConfig
from usseg_ray.sweeps.method_plan import kept_origin
from usseg_ray.sweeps.plan import make_plan


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


def test_a_model_to_start_from_is_looked_up_once(tmp_path: Path) -> None:
    place = kept(tmp_path, "stego")
    own = {k: v for k, v in TINY_SETTINGS.items() if not k.startswith("method.")}
    asked = {
        "names": ["primaps"],
        "space": None,
        "num_samples": 1,
        "data": str(tmp_path / "elsewhere"),
        "assigned": own | {"method.init_from": str(place)},
    }
    made = plan(**asked)
    config = made.config.method
    assert isinstance(config, PriMaPsConfig)
    assert config.origin is not None
    assert config.origin.method == "stego"
    assert config.init_from == str(place / "model.safetensors")
    known = flatten(made.config)
    assert build_config(PriMaPsConfig, [known]) == made.config

    # A resumed run asks for what it began with, wherever the name leads by now.
    begun = request(**asked).begun("key", None, kept_origin(made.parts))
    begun = begun.model_copy(update={"assigned": {**begun.assigned, "method.init_from": "gone"}})
    assert make_plan(begun).config == made.config
    kept(tmp_path, "stego", seed=1)
    with pytest.raises(UserError, match="no longer the stego that this run began with"):
        make_plan(begun)
    assert make_plan(request(**asked)).config != made.config


def test_a_model_to_start_from_is_not_drawn(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("fixed: {}\nspace: {method.init_from: {choice: [a, b]}}")
    with pytest.raises(UserError, match="no trial can draw it"):
        plan(names=["primaps"], space=str(space))
