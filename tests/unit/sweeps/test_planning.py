from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.planned import BOTH, TINY_SETTINGS, UNSET_K, only, plan, request, template
from usseg_ray.config import UserError, flatten
from usseg_ray.data import synthetic
from usseg_ray.job import Draw
from usseg_ray.sweeps.planning import make_plan
from usseg_ray.sweeps.request import Request


def test_the_default_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path))
    made = plan()
    assert made.config.backbone.name == "textons"
    assert made.num_trials == 6
    assert made.draws[0] == Draw("acseg", {})
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
    assert list(only(made).space.space) == ["method.num_prototypes"]
    settings = template(made).job({"method.num_prototypes": 3}).settings
    assert (settings["method.gamma"], settings["method.num_prototypes"]) == (0.7, 3)
    assert settings["data.name"] == "synthetic"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"assigned": {"method.gama": 1}}, "'method.gama'; did you mean 'method.gamma'"),
        ({"assigned": {"method.gamma": -1}}, "method.gamma = -1"),
        ({"question": "k", "search": "optuna"}, "--search optuna has nothing to choose"),
        ({"assigned": {"data.eval_size": 150}}, "data.eval_size = 150 is no multiple"),
        ({"assigned": {"method.background": "split"}}, "asks for last-block attention"),
        ({"assigned": {"method.num_heads": 7}}, "num_heads = 7 does not divide"),
        ({"data": "nowhere"}, "--data nowhere: no such folder"),
        ({"space": "nowhere.yaml"}, "nowhere.yaml: no such search space"),
        ({"assigned": {"data.selection_split": "validation"}}, "no split 'validation' to rank"),
        ({"assigned": {"data.test_split": "val"}}, "both 'val': a split that ranks trials is not"),
        ({"assigned": {"protocol": "stego"}}, "'stego'; did you mean 'stego-320'"),
        ({"assigned": {"protocol": "voc-21"}}, "voc-21 is for 21 classes, and the data has 10"),
        (
            {"assigned": {"protocol": "stego-320", "data.eval_size": 144}},
            "stego-320 is for data.eval_size=320, which is 144 here",
        ),
        (
            {"assigned": {"protocol": "picie-320", "num_clusters": 12}},
            "picie-320 is for K = 10, the number of classes, and K is 12",
        ),
        ({"assigned": {"data.crop_jpeg": 75}}, "crop_jpeg is for crops=five or crops=ten"),
        ({"assigned": {"data.view_draws": 2}}, "view_draws is for fixed crops"),
        ({"assigned": {"data.crop_ratios": [0.5, 0]}}, "every ratio lies above 0"),
        (
            {"assigned": {"resources.num_workers": "2-4"}},
            "acseg: train.batch_size = 16 is kept .* each of 2 to 4 .* train.batch_size=12",
        ),
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


def test_a_run_is_planned_again_as_it_began(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("space: {method.gamma: {uniform: [0.5, 2.0]}}")
    asked = request(methods={"acseg": str(space)}, num_samples=3)
    asked.begun("key").save(tmp_path)
    planned = make_plan(asked, make_data=False).draws
    space.write_text("space: {method.gamma: {uniform: [3.0, 4.0]}}")
    again = Request.load(tmp_path)
    assert make_plan(again, make_data=False).draws == planned
    space.unlink()
    assert make_plan(again, make_data=False).draws == planned


def test_an_empty_space_has_nothing_to_sweep(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("fixed: {}\nspace: {}")
    with pytest.raises(UserError, match="`space` is empty, so all 6 trials would be the same"):
        plan(space=str(space))
    assert plan(space=str(space), num_samples=1).draws == (Draw("acseg", {}),)


def test_prepared_sets_and_their_missing_parts(tmp_path: Path) -> None:
    whole, no_val, bare = (tmp_path / name for name in ("whole", "no-val", "bare"))
    tiny.write(whole)
    tiny.write(no_val, splits={"train": 3})
    tiny.write(bare, labelled=False)
    made = plan(data=str(whole), assigned=UNSET_K)
    assert made.root == str(whole)
    assert template(made).job({}).settings["num_clusters"] == 3
    with pytest.raises(UserError, match="no split 'val' to rank trials on, only train"):
        plan(data=str(no_val), assigned=TINY_SETTINGS)
    assert plan(data=str(whole), assigned=TINY_SETTINGS).objective == "unsup_miou"
    assert plan(data=str(bare), assigned=TINY_SETTINGS).objective == "label_free.view_information"
    with pytest.raises(UserError, match="'val' has no labels to rank trials by unsup_miou"):
        plan(data=str(bare), assigned=TINY_SETTINGS, objective="unsup_miou")
    with pytest.raises(UserError, match="no split 'training'"):
        plan(data=str(whole), assigned=TINY_SETTINGS | {"data.train_split": "training"})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objective": "label_free.modulariti"}, "did you mean label_free.modularity"),
        (
            {"objective": "label_free.consensus", "search": "optuna"},
            "label_free.consensus is known when all trials have ended",
        ),
        ({"objective": "label_free.consensus", "scheduler": "asha"}, "nor --scheduler asha"),
        (
            {"objective": "label_free.modularity", "names": ["colour"]},
            "of backbone features, and colour uses none",
        ),
    ],
)
def test_objectives_that_trials_would_not_have(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(**changed)


def test_one_run_needs_no_labels_but_a_number_of_clusters(tmp_path: Path) -> None:
    tiny.write(tmp_path, labelled=False, splits={"train": 3})
    alone: dict[str, Any] = {"data": str(tmp_path), "space": None, "num_samples": 1}
    assert plan(**alone, assigned=TINY_SETTINGS).config.num_clusters == 3
    with pytest.raises(UserError, match=r"names no classes.*--set num_clusters=K"):
        plan(**alone, assigned=UNSET_K)


def test_the_base_holds_every_key() -> None:
    made = plan()
    assert template(made).base.keys() == flatten(made.config).keys()


def test_a_methods_key_goes_to_the_methods_that_have_it() -> None:
    assigned = {"method.gamma": 1.5, "method.restarts": 3, "train.epochs": 2}
    made = plan(names=[*BOTH, "colour"], assigned=assigned)
    assert {part.method: part.assigned for part in made.parts} == {
        "acseg": assigned,
        "kmeans": {"method.restarts": 3, "train.epochs": 2},
        "colour": {"method.restarts": 3, "train.epochs": 2},
    }
    assert template(made).job({}).settings["method.gamma"] == 1.5
    assert template(made, "kmeans").job({}).settings["method.restarts"] == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"assigned": {"method.gama": 1}},
            r"'method.gama'; did you mean 'method.gamma'\? None of acseg, kmeans has it",
        ),
        ({"assigned": {"data.eval_siz": 1}}, "acseg: Unknown key: 'data.eval_siz'"),
        ({"assigned": {"method.num_heads": 7}}, "acseg: .*num_heads = 7 does not divide"),
        ({"warm_start": "earlier"}, "--warm-start is for --search optuna"),
        ({"preset": "acseg-voc2012"}, "for method 'acseg' alone, not for acseg, kmeans"),
        ({"space": None, "assigned": {"data.selection_split": "x"}}, "no split 'x' to rank"),
    ],
)
def test_mistakes_with_several_methods(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(names=BOTH, **changed)


def test_methods_under_different_protocols_are_not_compared(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("fixed: {data.eval_size: 128, data.train_size: 96, train.epochs: 1}")
    asked = request(names=BOTH)
    changed = asked.model_copy(update={"methods": {**asked.methods, "kmeans": str(space)}})
    message = r"acseg and kmeans .*: data.eval_size is 144 and 128. --set data.eval_size=VALUE"
    with pytest.raises(UserError, match=message):
        make_plan(changed, make_data=False)
    equal = changed.model_copy(update={"assigned": {"data.eval_size": 160}})
    made = make_plan(equal, make_data=False)
    assert [part.config.data.train_size for part in made.parts] == [144, 96]


def test_a_preset_lies_between_data_and_fixed(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("fixed: {train.batch_size: 8, method.num_prototypes: 7}")
    kept = {"backbone.name": "textons", "method.background": "none"}
    assigned = {**kept, "method.num_prototypes": 9}
    made = plan(space=str(space), num_samples=1, preset="acseg-voc2012", assigned=assigned)
    assert made.config.data.train_size == 224
    assert made.config.train.batch_size == 8
    settings = made.config.method.model_dump()
    assert (settings["num_prototypes"], settings["background"]) == (9, "none")
    assert settings["num_heads"] == 3


def test_the_form_of_the_trials_is_not_sampled(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("space: {resources.num_workers: {choice: [0, 1]}}")
    with pytest.raises(UserError, match=r"space\.yaml: resources\.num_workers cannot be sampled"):
        plan(space=str(space))
    space.write_text("fixed: {resources.num_workers: 0}")
    assert plan(space=str(space), num_samples=1).config.resources.num_workers == 0
    fixed = plan(space=str(space), num_samples=1, assigned={"resources.num_workers": "auto"})
    assert fixed.config.resources.num_workers == "auto"
