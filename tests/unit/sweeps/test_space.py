from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usseg_ray.core.config import build_config
from usseg_ray.core.errors import UserError
from usseg_ray.methods import METHODS, get
from usseg_ray.settings.acseg import ACSegConfig
from usseg_ray.sweeps.space import (
    Distribution,
    SearchSpace,
    check_space,
    check_spaces,
    find_space,
    load_space,
    parse_assignments,
)


def space_of(folder: Path, text: str) -> SearchSpace:
    path = folder / "space.yaml"
    path.write_text(text)
    return load_space(path)


def test_a_space_is_read(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        """
        fixed: {train.epochs: 3}
        space:
          num_clusters: {choice: [5, 7]}
          method.gamma: {uniform: [0.5, 2]}
          method.lr: {loguniform: [1e-4, 1e-2]}
          method.num_prototypes: {randint: [2, 6]}
        """,
    )
    assert space.fixed == {"train.epochs": 3}
    assert space.space == {
        "num_clusters": Distribution("choice", (5, 7)),
        "method.gamma": Distribution("uniform", (0.5, 2)),
        "method.lr": Distribution("loguniform", (1e-4, 1e-2)),
        "method.num_prototypes": Distribution("randint", (2, 6)),
    }
    assert space.source == str(tmp_path / "space.yaml")
    check_space(space, ACSegConfig, [])


@pytest.mark.parametrize("text", ["", "fixed: {}\nspace: {}", "fixed:\nspace:\n"])
def test_an_empty_space(tmp_path: Path, text: str) -> None:
    space = space_of(tmp_path, text)
    assert (space.fixed, space.space) == ({}, {})
    assert space.sample(3, 0) == [{}]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_methods_own_space_is_valid(method: Any) -> None:
    space = load_space(find_space(method.name))
    check_space(space, method.Config, [])
    assert space.space


def test_a_method_without_a_space_says_how_to_give_one() -> None:
    with pytest.raises(UserError, match=r"nobody\.yaml: no such search space.*--space FILE"):
        find_space("nobody")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: no such search space"):
        load_space(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: [", "is not YAML"),
        ("- a", "expected the two mappings"),
        ("just text", "expected the two mappings"),
        ("space: 5", "expected the two mappings"),
        ("fixed: [1]", "expected the two mappings"),
        ("spaces: {}", "Unknown key: 'spaces'; did you mean 'space'"),
        ("space: {seed: 5}", r"space\.seed: expected one of .*choice.*got 5"),
        ("space: {seed: {}}", r"space\.seed: expected one of"),
        ("space: {seed: {choice: [1], uniform: [1, 2]}}", r"space\.seed: expected one of"),
        ("space: {seed: {choise: [1]}}", "Unknown key: 'choise'; did you mean 'choice'"),
        ("space: {seed: {choice: 4}}", r"seed\.choice: expected a list, got 4"),
        ("space: {seed: {choice: []}}", r"seed\.choice: expected a list"),
        ("space: {seed: {uniform: [1]}}", r"expected \[low, high\] with low < high, got \[1\]"),
        ("space: {seed: {uniform: [1, 2, 3]}}", r"expected \[low, high\]"),
        ("space: {seed: {uniform: [2, 1]}}", r"expected \[low, high\]"),
        ("space: {seed: {uniform: [1, 1]}}", r"expected \[low, high\]"),
        ("space: {seed: {uniform: [a, 2]}}", r"expected \[low, high\]"),
        ("space: {seed: {uniform: [null, 2]}}", r"expected \[low, high\]"),
        ("space: {seed: {uniform: [.nan, 2]}}", r"expected \[low, high\]"),
        ("space: {seed: {uniform: [1, .inf]}}", r"expected \[low, high\]"),
        (f"space: {{seed: {{uniform: [1, {10**400}]}}}}", r"expected \[low, high\]"),
        (f"space: {{seed: {{randint: [1, {2**63}]}}}}", r"expected \[low, high\]"),
        ("space: {seed: {loguniform: [0, 1]}}", "low must be above 0, got 0"),
        ("space: {seed: {loguniform: [-1, 1]}}", "low must be above 0, got -1"),
        ("space: {seed: {randint: [1, 2.5]}}", "expected whole numbers"),
    ],
)
def test_malformed_files_name_place_and_cause(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        space_of(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "space.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: {method.gama: {uniform: [1, 2]}}", "'method.gama'; did you mean 'method.gamma'"),
        ("fixed: {train.epoch: 1}", "'train.epoch'; did you mean 'train.epochs'"),
        ("space: {method.gamma: {uniform: [-1, 2]}}", r"space\.method\.gamma: .*= -1"),
        ("space: {method.num_prototypes: {randint: [5, 900]}}", "= 900"),
        ("space: {method.norm: {choice: [pre, post, batch]}}", "= 'batch'"),
        ("space: {data.crop_scale: {uniform: [0.5, 1.5]}}", r"= 1\.5"),
    ],
)
def test_both_ends_of_every_range_are_tried(tmp_path: Path, text: str, message: str) -> None:
    space = space_of(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        check_space(space, ACSegConfig, [])
    assert space.source in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fixed: {train.epoch: 1}", "'train.epoch'; did you mean 'train.epochs'"),
        ("space: {method.gamma: {uniform: [-1, 2]}}", r"space\.method\.gamma: .*= -1"),
        (
            "{fixed: {train.epochs: 0}, space: {method.gamma: {uniform: [1, 2]}}}",
            r"space\.method\.gamma: train\.epochs = 0",
        ),
    ],
)
def test_what_is_wrong_whatever_lies_below_needs_no_layers(
    tmp_path: Path, text: str, message: str
) -> None:
    space = space_of(tmp_path, text)
    with pytest.raises(UserError, match=message) as early:
        check_spaces({"acseg": space.source}, {})
    with pytest.raises(UserError) as late:
        check_space(space, ACSegConfig, [])
    assert str(early.value) == str(late.value)


def test_what_lies_below_may_make_a_space_right(tmp_path: Path) -> None:
    space = space_of(tmp_path, "space: {data.crop_jpeg: {choice: [75, 95]}}")
    check_spaces({"acseg": space.source}, {})
    check_space(space, ACSegConfig, [{"data.crops": "five"}])
    with pytest.raises(UserError, match="crop_jpeg is for"):
        check_space(space, ACSegConfig, [])


def test_what_is_assigned_is_not_drawn(tmp_path: Path) -> None:
    space = space_of(tmp_path, "space: {method.gamma: {uniform: [-1, 2]}}")
    check_spaces({"acseg": space.source}, {"method.gamma": 1})
    with pytest.raises(UserError, match=r"^acseg: .*space\.method\.gamma"):
        check_spaces({"acseg": space.source, "kmeans": str(find_space("kmeans"))}, {})


def test_numbers_that_yaml_takes_for_text(tmp_path: Path) -> None:
    space = space_of(tmp_path, "space: {method.lr: {uniform: [1e-4, 1e-3]}}")
    assert space.space["method.lr"].values == (1e-4, 1e-3)
    listed = space_of(tmp_path, "space: {method.lr: {choice: [1e-4, 1e-3]}}")
    drawn = listed.space["method.lr"].at(0.0)
    assert build_config(ACSegConfig, [{"method.lr": drawn}]).method.lr == 1e-4


@given(st.floats(0, 1, exclude_max=True), st.integers(-50, 50), st.integers(1, 99))
def test_quantiles_stay_within_the_ends(u: float, low: int, width: int) -> None:
    high = low + width
    assert low <= Distribution("uniform", (low, high)).at(u) <= high
    drawn = Distribution("randint", (low, high)).at(u)
    assert isinstance(drawn, int)
    assert low <= drawn <= high
    exact = Distribution("loguniform", (0.5, 0.5 + width)).at(u)
    assert 0.5 - 1e-9 <= exact <= (0.5 + width) * (1 + 1e-9)
    assert Distribution("choice", ("a", "b", "c")).at(u) in ("a", "b", "c")


def test_quantiles_reach_both_ends() -> None:
    below_one = 1 - 1e-12
    randint, choice = Distribution("randint", (2, 5)), Distribution("choice", ("a", "b"))
    assert (randint.at(0), randint.at(below_one)) == (2, 5)
    assert (choice.at(0), choice.at(below_one)) == ("a", "b")
    middle = Distribution("loguniform", (1, 100)).at(0.5)
    assert middle == pytest.approx(10)
    assert randint.ends == (2, 5)


def test_distributions_in_words() -> None:
    assert str(Distribution("choice", (3, 5))) == "one of 3, 5"
    assert str(Distribution("uniform", (0.5, 2))) == "0.5 to 2 (uniform)"


SPACE = SearchSpace(
    {},
    {
        "method.gamma": Distribution("uniform", (0.0, 10.0)),
        "num_clusters": Distribution("choice", (3, 5, 7)),
    },
    "a test",
)


def test_the_first_trial_takes_the_defaults() -> None:
    assert SPACE.sample(1, 0) == [{}]
    first, *others = SPACE.sample(7, 0)
    assert first == {}
    assert all(list(sample) == ["method.gamma", "num_clusters"] for sample in others)


@pytest.mark.parametrize("seed", range(5))
def test_trials_fill_the_space_evenly(seed: int) -> None:
    drawn = SPACE.sample(10, seed)[1:]
    assert sorted(int(sample["method.gamma"] * 0.9) for sample in drawn) == list(range(9))
    clusters = [sample["num_clusters"] for sample in drawn]
    assert {value: clusters.count(value) for value in (3, 5, 7)} == {3: 3, 5: 3, 7: 3}


def test_samples_follow_their_seed() -> None:
    assert SPACE.sample(6, 1) == SPACE.sample(6, 1)
    assert SPACE.sample(6, 1) != SPACE.sample(6, 2)


def test_what_is_set_is_not_sampled() -> None:
    left = SPACE.without({"num_clusters": 4, "seed": 1})
    assert list(left.space) == ["method.gamma"]
    assert list(SPACE.space) == ["method.gamma", "num_clusters"]


def test_assignments_are_yaml() -> None:
    assert parse_assignments(
        [
            "seed=3",
            "method.gamma=1.5",
            "data.flip=false",
            "num_clusters=null",
            "backbone.note=a=b",
            " data.name =x",
            "backbone.timm_args={num_classes: 1001, pad_type: same}",
            "backbone.mean=[0.5, 0.5, 0.5]",
        ]
    ) == {
        "seed": 3,
        "method.gamma": 1.5,
        "data.flip": False,
        "num_clusters": None,
        "backbone.note": "a=b",
        "data.name": "x",
        "backbone.timm_args": {"num_classes": 1001, "pad_type": "same"},
        "backbone.mean": [0.5, 0.5, 0.5],
    }


def test_the_last_assignment_of_a_key_wins() -> None:
    assert parse_assignments(["seed=1", "seed=2"]) == {"seed": 2}


def test_an_assigned_power_of_ten_is_a_number() -> None:
    config = build_config(get("acseg").Config, [parse_assignments(["method.lr=1e-4"])])
    assert config.method == ACSegConfig(lr=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "--set seed: expected path=value"),
        ("=3", "--set =3: expected path=value"),
        ("seed=[1", "is not YAML"),
        ("seed={a: b: c}", "is not YAML"),
    ],
)
def test_assignments_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_assignments([text])
    assert message in str(caught.value)


def test_a_space_around_other_ends_draws_what_has_some() -> None:
    shipped = load_space(find_space("stego"))
    around = shipped.around({"method.shift_intra": (0.01, 0.02), "method.weight_intra": None})
    assert around.space["method.shift_intra"].values == (0.01, 0.02)
    assert "method.weight_intra" not in around.space
    assert around.space["method.shift_inter"] == shipped.space["method.shift_inter"]
    assert around.is_shipped


def test_a_space_of_the_user_is_not_one_that_came_with_the_package(tmp_path: Path) -> None:
    (tmp_path / "stego.yaml").write_text("fixed: {}")
    assert not load_space(tmp_path / "stego.yaml").is_shipped
