from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.planned import BOTH, TINY_SETTINGS, UNSET_K, jobs, only, plan, request
from usseg_ray.core.config import flatten
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import FixedView, Frame
from usseg_ray.data import synthetic
from usseg_ray.sweeps.plan import make_plan, planned_epochs
from usseg_ray.sweeps.request import Request
from usseg_ray.trials.job import HERE, Placement, StoredView


def test_trials_differ_in_k_by_the_number_of_classes() -> None:
    made, classes = plan(), len(synthetic.CLASSES)
    for ratio in (0.75, 1.0, 1.5):
        job = made.job("acseg", {"clusters_per_class": ratio})
        assert job.num_clusters == job.config.num_clusters == round(ratio * classes)
    assert made.job("acseg", {"clusters_per_class": 0.01}).num_clusters == 2
    assert made.job("acseg", {"num_clusters": 6, "clusters_per_class": 1.5}).num_clusters == 6
    given = plan(assigned={"num_clusters": 4})
    assert given.job("acseg", {"clusters_per_class": 1.5}).num_clusters == 4


def test_a_job_is_the_first_ones_but_for_what_its_trial_drew() -> None:
    made = plan(assigned={"train.epochs": 4})
    job = made.job("acseg", {"method.gamma": 2})
    assert (job.method, job.root, job.placement) == ("acseg", made.root, HERE)
    assert flatten(job.config) == flatten(made.first_jobs()[0].config) | {"method.gamma": 2.0}
    # What was checked before is not checked again, nor copied.
    assert job.config.train is made.config.train
    with pytest.raises(UserError, match=r"method\.gamma = -1"):
        made.job("acseg", {"method.gamma": -1})


def test_a_finalist_has_another_seed_whatever_was_set() -> None:
    made, sample = plan(assigned={"seed": 7}), {"method.gamma": 2.0}
    own, again = (flatten(made.job("acseg", sample, seed).config) for seed in (None, 9))
    assert own["seed"] == 7
    assert again == own | {"seed": 9}


def test_jobs_come_to_a_cluster_in_the_form_that_was_chosen() -> None:
    view = StoredView("train", FixedView.of(Frame(32)), "key")
    made = plan(names=BOTH)
    there = made.on("cuda", "readers", {"acseg": (view,)}).in_processes(0)
    first, second = there.first_jobs()
    assert first.placement == Placement("cuda", "readers", (view,))
    assert second.placement == Placement("cuda", "readers")
    assert {job.config.resources.num_workers for job in (first, second)} == {0}
    assert there.config.resources.cpus_per_worker == made.config.resources.cpus_per_worker
    assert made.config.resources.num_workers == "auto"
    assert made.first_jobs()[0].placement == HERE


def test_a_single_run_has_one_sample() -> None:
    made = plan(space=None, num_samples=1)
    assert made.draws == {"trial_000": ("acseg", {})}
    assert only(made).space.space == {}


def test_optuna_plans_no_samples() -> None:
    made = plan(search="optuna")
    assert not made.is_planned
    assert made.num_trials == 6
    assert list(made.draws) == [f"trial_{index:03d}" for index in range(6)]
    assert list(made.draws.values()) == [("acseg", {}), *[("acseg", None)] * 5]
    alone = plan(search="optuna", space=None, num_samples=1)
    assert alone.draws == {"trial_000": ("acseg", {})}
    assert alone.is_planned
    both = plan(names=BOTH, search="optuna", num_samples=2)
    rounds: list[Any] = [("acseg", {}), ("kmeans", {}), ("acseg", None), ("kmeans", None)]
    assert list(both.draws.values()) == rounds
    assert not both.is_planned


def test_the_seed_moves_the_samples() -> None:
    assert plan().draws == plan().draws
    assert plan(assigned={"seed": 1}).draws != plan().draws


def test_trials_go_round_the_methods_and_start_with_defaults() -> None:
    made = plan(names=["acseg", "kmeans", "position"], num_samples=2)
    drawn, samples = zip(*made.draws.values(), strict=True)
    assert list(drawn) == 2 * ["acseg", "kmeans", "position"]
    assert samples[:3] == ({}, {}, {})
    assert set(samples[3]) == {"method.num_prototypes", "method.gamma"}
    assert set(samples[4]) == {"method.context"}
    assert made.num_trials == 6
    assert made.is_planned


def test_a_method_draws_alone_what_it_draws_in_company() -> None:
    together = [draw for draw in plan(names=BOTH).draws.values() if draw[0] == "acseg"]
    assert together == list(plan().draws.values())


def test_a_method_with_nothing_left_to_sample_has_one_trial() -> None:
    made = plan(names=BOTH, num_samples=3, assigned={"method.context": 0.75})
    drawn = [method for method, _ in made.draws.values()]
    assert drawn == ["acseg", "kmeans", "acseg", "acseg"]
    assert made.num_trials == 4


def test_epochs_of_a_trial_and_of_the_longest_one(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("space: {train.epochs: {randint: [2, 9]}}")
    made = plan(space=str(space))
    assert planned_epochs(made.job("acseg", {"train.epochs": 4})) == 4
    assert made.max_epochs == 9
    assert planned_epochs(plan(names=["kmeans"]).job("kmeans", {})) == 1
    assert plan(names=BOTH).max_epochs == 2


def test_the_question_of_k_tries_every_k_with_every_seed(tmp_path: Path) -> None:
    asked = {"question": "k", "num_samples": 2, "seeds": 2, "assigned": UNSET_K | {"seed": 4}}
    tiny.write(tmp_path / "whole")
    made = plan(data=str(tmp_path / "whole"), **asked)
    found = [(job.num_clusters, job.config.seed) for job in jobs(made).values()]
    assert found == [(2, 4), (6, 4), (2, 5), (6, 5)]
    tiny.write(tmp_path / "bare", labelled=False)
    made = plan(data=str(tmp_path / "bare"), **asked)
    assert [job.num_clusters for job in jobs(made).values()] == [4, 32, 4, 32]
    assert made.first_jobs()[0].num_clusters == 4
    with pytest.raises(UserError, match="leave --set num_clusters out"):
        plan(data=str(tmp_path / "whole"), question="k", assigned=TINY_SETTINGS)


def test_the_default_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path))
    made = plan()
    assert made.config.backbone.name == "textons"
    assert made.num_trials == 6
    assert made.draws["trial_000"] == ("acseg", {})
    assert made.manifest.classes == synthetic.CLASSES
    assert Path(made.root).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


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


def test_prepared_sets_and_their_missing_parts(tmp_path: Path) -> None:
    whole, no_val, bare = (tmp_path / name for name in ("whole", "no-val", "bare"))
    tiny.write(whole)
    tiny.write(no_val, splits={"train": 3})
    tiny.write(bare, labelled=False)
    made = plan(data=str(whole), assigned=UNSET_K)
    assert made.root == str(whole)
    assert made.first_jobs()[0].num_clusters == 3
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
        ({"objective": "label_free.modulariti"}, "did you mean 'label_free.modularity'"),
        (
            {"objective": "label_free.consensus", "search": "optuna"},
            "label_free.consensus is known when all trials have ended",
        ),
        ({"objective": "label_free.consensus", "scheduler": "asha"}, "nor --scheduler asha"),
        ({"objective": "label_free.consensus", "question": "k"}, "cannot answer --question k"),
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


@pytest.mark.parametrize(
    ("asked", "picked"),
    [
        ({}, "settings picked by labels of val"),
        ({"search": "optuna", "scheduler": "asha"}, "settings picked by labels of val"),
        (
            {"objective": "label_free.entropy"},
            "settings picked without labels, by label_free.entropy on val",
        ),
        ({"space": None, "num_samples": 1}, ""),
    ],
)
def test_a_plan_says_what_picks_among_its_trials(asked: dict[str, Any], picked: str) -> None:
    assert plan(**asked).picked == picked
