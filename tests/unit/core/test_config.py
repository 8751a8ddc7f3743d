import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from usseg_ray.core.config import (
    BackboneConfig,
    Config,
    DataConfig,
    ResourceConfig,
    TrainConfig,
    build_config,
    flatten,
    known_keys,
    unflatten,
)
from usseg_ray.core.errors import UserError
from usseg_ray.methods import METHODS
from usseg_ray.settings.acseg import ACSegConfig

# Their names say all that there is to say.
SELF_EXPLANATORY = {"seed", "data.train_split", "train.epochs", "resources.device"}
GROUPS: tuple[type[BaseModel], ...] = (
    Config[ACSegConfig],
    DataConfig,
    BackboneConfig,
    TrainConfig,
    ResourceConfig,
    *(method.Config for method in METHODS),
)


def build(*layers: dict[str, Any]) -> Config[ACSegConfig]:
    return build_config(ACSegConfig, layers)


def test_later_layers_win_key_by_key() -> None:
    config = build(
        {"seed": 1, "method.gamma": 2.0, "train.epochs": 7},
        {"method.gamma": 3.0, "train.epochs": 8},
        {"train.epochs": 9},
    )
    assert (config.seed, config.method.gamma, config.train.epochs) == (1, 3.0, 9)
    assert config.train.batch_size == TrainConfig().batch_size


def test_without_layers_all_is_default() -> None:
    config = build()
    assert config.method == ACSegConfig()
    assert config.data == DataConfig()


def test_layers_stay_as_they_were() -> None:
    first: dict[str, Any] = {"backbone.timm_args": {}}
    second = {"backbone.timm_args.num_classes": 5}
    assert build(first, second).backbone.timm_args == {"num_classes": 5}
    assert first == {"backbone.timm_args": {}}


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("method.gama", "method.gamma"),
        ("train.epoch", "train.epochs"),
        ("gamma", "method.gamma"),
        ("num_cluster", "num_clusters"),
        ("backbone.weight", "backbone.weights"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(UserError) as caught:
        build({key: 1})
    assert str(caught.value) == f"Unknown key: {key!r}; did you mean {nearest!r}?"


@pytest.mark.parametrize("key", ["backbone", "method", "backbone.timm_argsx.a", "timm_args.a"])
def test_groups_and_near_misses_are_no_keys(key: str) -> None:
    with pytest.raises(UserError, match="Unknown key"):
        build({key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("num_clusters", 1),
        ("clusters_per_class", 0),
        ("data.crop_scale", 0),
        ("data.crop_scale", 1.01),
        ("data.train_size", 7),
        ("data.keep_mib", -1),
        ("train.epochs", 0),
        ("train.eval_every", 0),
        ("backbone.layer", "last"),
        ("resources.device", "tpu"),
        ("resources.cpus_per_worker", 0),
        ("method.gamma", 0),
        ("method.gamma", float("nan")),
        ("method.gamma", float("inf")),
        ("method.norm", "batch"),
    ],
)
def test_values_out_of_bounds_name_key_and_value(key: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        build({key: value})
    assert str(caught.value).startswith(f"{key} = {value!r}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_config_equals_what_is_built_from_its_flat_form(method: Any) -> None:
    config = build_config(method.Config, [{"seed": 4, "backbone.mean": (0.1, 0.2, 0.3)}])
    assert build_config(method.Config, [flatten(config)]) == config


scalars = st.none() | st.booleans() | st.integers() | st.text() | st.floats(-9, 9)
names = st.text("abcdefgh_", min_size=1)


@given(
    seed=st.integers(0, 2**40),
    gamma=st.floats(1e-6, 1e6),
    size=st.integers(8, 4096),
    note=st.text(),
    args=st.dictionaries(names, scalars | st.dictionaries(names, scalars), max_size=3),
)
def test_flat_form_of_any_values(
    seed: int, gamma: float, size: int, note: str, args: dict[str, Any]
) -> None:
    config = build(
        {
            "seed": seed,
            "method.gamma": gamma,
            "data.eval_size": size,
            "backbone.note": note,
            "backbone.timm_args": args,
        }
    )
    assert build(flatten(config)) == config
    assert config.backbone.timm_args == args


trees = st.recursive(
    st.dictionaries(names, scalars, min_size=1, max_size=3),
    lambda below: st.dictionaries(names, below | scalars, min_size=1, max_size=3),
    max_leaves=8,
)


@given(trees)
def test_unflatten_undoes_flatten(tree: dict[str, Any]) -> None:
    assert unflatten(flatten(tree)) == tree


@pytest.mark.parametrize(
    ("given", "fewest", "processes"),
    [("auto", 1, 1), (0, 1, 1), (1, 1, 1), (4, 4, 4), ("2-4", 2, 4), ("8-12", 8, 12)],
)
def test_how_many_processes_train_a_trial(given: int | str, fewest: int, processes: int) -> None:
    resources = build({"resources.num_workers": given}).resources
    assert resources.num_workers == given
    assert (resources.fewest, resources.processes) == (fewest, processes)


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_a_backbone_computes_in_bfloat16_on_cuda_or_where_asked(
    precision: typing.Literal["auto", "float32", "bfloat16"],
) -> None:
    resources = ResourceConfig(precision=precision)
    found = [resources.arithmetic(device) for device in ("cpu", "cuda")]
    assert found == (["float32", "bfloat16"] if precision == "auto" else [precision] * 2)


@pytest.mark.parametrize("given", [-1, 1.5, "many", "-1", None, "0-2", "4-2", "2-2", "2-"])
def test_no_other_number_of_workers(given: object) -> None:
    message = r"resources\.num_workers = .*either auto, 0 \(the trial's own process\), a number of"
    with pytest.raises(UserError, match=message):
        build({"resources.num_workers": given})


def test_flat_form_is_plain_and_known() -> None:
    flat = flatten(build())
    assert set(flat) == set(known_keys(ACSegConfig))
    assert flat["data.train_size"] == 224
    assert flat["num_clusters"] is None


def test_everything_is_frozen() -> None:
    config = build()
    for group in (config, config.data, config.backbone, config.train, config.resources):
        name = next(iter(type(group).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(group, name, getattr(group, name))


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_field_has_a_type_and_a_default(group: type[BaseModel]) -> None:
    hints = typing.get_type_hints(group)
    for name, field in group.model_fields.items():
        assert name in hints
        assert name == "method" or not field.is_required()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_key_is_described(method: Any) -> None:
    silent = {key for key, text in known_keys(method.Config).items() if not text.strip()}
    assert silent == SELF_EXPLANATORY
