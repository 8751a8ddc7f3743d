from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from usseg_ray import __version__
from usseg_ray.config import UserError, flatten
from usseg_ray.data import synthetic
from usseg_ray.plan import (
    REQUEST_FILE,
    Plan,
    Request,
    default_space,
    flatten_assigned,
    make_plan,
)


def request(**changed: Any) -> Request:
    asked: dict[str, Any] = {
        "method": "acseg",
        "data": "synthetic",
        "space": default_space("acseg"),
        "assigned": {},
        "num_samples": 6,
        "search": "random",
        "scheduler": "none",
    }
    return Request.model_validate(asked | changed)


def plan(**changed: Any) -> Plan:
    return make_plan(request(**changed), make_data=False)


TINY_SETTINGS = {k: v for k, v in (tiny.SETTINGS | tiny.ACSEG).items() if k != "data.name"}
UNSET_K = {k: v for k, v in TINY_SETTINGS.items() if k != "num_clusters"}


def test_the_default_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path))
    made = plan()
    assert made.config.backbone.name == "textons"
    assert len(made.samples) == 6
    assert made.samples[0] == {}
    assert made.manifest.classes == synthetic.CLASSES
    assert Path(made.root).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


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
    assert list(made.space.space) == ["method.num_prototypes"]
    settings = made.template().job({"method.num_prototypes": 3}).settings
    assert (settings["method.gamma"], settings["method.num_prototypes"]) == (0.7, 3)
    assert settings["data.name"] == "synthetic"


def test_trials_differ_in_k_by_the_number_of_classes() -> None:
    template = plan().template()
    classes = len(synthetic.CLASSES)
    for ratio in (0.75, 1.0, 1.5):
        settings = template.job({"clusters_per_class": ratio}).settings
        assert settings["num_clusters"] == round(ratio * classes)


def test_a_single_run_has_one_sample() -> None:
    made = plan(space=None, num_samples=1)
    assert made.samples == ({},)
    assert made.space.space == {}


def test_optuna_plans_no_samples() -> None:
    assert plan(search="optuna").samples == ()
    assert plan(search="optuna", space=None, num_samples=1).samples == ({},)


def test_the_seed_moves_the_samples() -> None:
    assert plan().samples == plan().samples
    assert plan(assigned={"seed": 1}).samples != plan().samples


def test_assigned_mappings_become_keys() -> None:
    assert flatten_assigned({"backbone.timm_args": {"a": 1, "b": {"c": 2}}, "seed": 1}) == {
        "backbone.timm_args.a": 1,
        "backbone.timm_args.b.c": 2,
        "seed": 1,
    }
    assert flatten_assigned({"backbone.timm_args": {}}) == {"backbone.timm_args": {}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "acsge"}, "Unknown method: 'acsge'; did you mean 'acseg'"),
        ({"assigned": {"method.gama": 1}}, "'method.gama'; did you mean 'method.gamma'"),
        ({"assigned": {"method.gamma": -1}}, "method.gamma = -1"),
        ({"assigned": {"data.eval_size": 150}}, "data.eval_size = 150 is no multiple"),
        ({"assigned": {"method.background": "split"}}, "asks for last-block attention"),
        ({"assigned": {"method.num_heads": 7}}, "num_heads = 7 does not divide"),
        ({"data": "nowhere"}, "--data nowhere: no such folder"),
        ({"space": "nowhere.yaml"}, "nowhere.yaml: no such search space"),
        ({"assigned": {"data.selection_split": "validation"}}, "no split 'validation' to rank"),
    ],
)
def test_mistakes_are_found_before_anything_starts(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(**changed)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("method.num_heads: {randint: [3, 4]}", r"num_heads': 4}: .*does not divide"),
        ("method.num_heads: {choice: [3, 7]}", r"num_heads': 7}: .*does not divide"),
        ("data.train_size: {choice: [144, 150]}", r"train_size': 150}: .*no multiple"),
        ("backbone.patch_size: {choice: [8, 6]}", r"'backbone.patch_size': 6}: .*patch"),
        ("num_clusters: {randint: [1, 20]}", "num_clusters = 1"),
    ],
)
def test_an_end_that_cannot_be_built_is_found(tmp_path: Path, line: str, message: str) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(f"space: {{{line}}}")
    with pytest.raises(UserError, match=message) as caught:
        plan(space=str(space))
    assert str(space) in str(caught.value)


def test_prepared_sets_and_their_missing_parts(tmp_path: Path) -> None:
    whole, no_val, bare = (tmp_path / name for name in ("whole", "no-val", "bare"))
    tiny.write(whole)
    tiny.write(no_val, splits={"train": 3})
    tiny.write(bare, labelled=False)
    made = plan(data=str(whole), assigned=UNSET_K)
    assert made.root == str(whole)
    assert made.template().job({}).settings["num_clusters"] == 3
    with pytest.raises(UserError, match="no split 'val' to rank trials on, only train"):
        plan(data=str(no_val), assigned=TINY_SETTINGS)
    with pytest.raises(UserError, match="'val' has no labels to rank trials"):
        plan(data=str(bare), assigned=TINY_SETTINGS)
    with pytest.raises(UserError, match="no split 'training'"):
        plan(data=str(whole), assigned=TINY_SETTINGS | {"data.train_split": "training"})


def test_one_run_needs_no_labels_but_a_number_of_clusters(tmp_path: Path) -> None:
    tiny.write(tmp_path, labelled=False, splits={"train": 3})
    alone: dict[str, Any] = {"data": str(tmp_path), "space": None, "num_samples": 1}
    assert plan(**alone, assigned=TINY_SETTINGS).config.num_clusters == 3
    with pytest.raises(UserError, match=r"names no classes.*--set num_clusters=K"):
        plan(**alone, assigned=UNSET_K)


def test_the_base_holds_every_key() -> None:
    made = plan()
    assert made.template().base.keys() == flatten(made.config).keys()


def test_a_request_is_saved_whole(tmp_path: Path) -> None:
    asked = request(assigned={"backbone.timm_args.pad": "same", "seed": 2}, key="abc")
    asked.save(tmp_path)
    assert Request.load(tmp_path) == asked
    assert asked.version == __version__


def test_a_folder_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no sweep to resume \(sweep.yaml is missing\)"):
        Request.load(tmp_path)


def test_a_request_of_another_version_is_refused(tmp_path: Path) -> None:
    request().model_copy(update={"version": "0.0.0"}).save(tmp_path)
    with pytest.raises(UserError, match=f"written by version 0.0.0, this is {__version__}"):
        Request.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[", "just text", f"version: {__version__}\nmethod: acseg"])
def test_a_damaged_request_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / REQUEST_FILE).write_text(text)
    with pytest.raises(UserError, match=r"sweep\.yaml is damaged"):
        Request.load(tmp_path)
