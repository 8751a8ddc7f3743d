import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.fitting import (
    CLOCKS,
    Counting,
    Looking,
    Set,
    Uneven,
    WithoutSecond,
    counting,
    equal_states,
    fitted,
    run_of,
    timeless,
)
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Step
from usseg_ray.engine.checkpoint import STATE_FILE, RunState
from usseg_ray.engine.context import PlainContext
from usseg_ray.scoring.objective import WITHOUT_LABELS, kept_clusters

SCORE_KEYS = {
    "unsup_miou",
    "unsup_acc",
    "boundary_f",
    "many_to_one_miou",
    "used_clusters",
    "collapsed",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Set:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Set:
    root = tmp_path_factory.mktemp("unlabelled")
    return str(root), tiny.write(root, labelled=False, splits={"train": 9})


def test_every_epoch_is_reported_with_its_scores(prepared: Set) -> None:
    history = fitted(prepared).history
    assert [entry["epoch"] for entry in history] == [1, 2]
    for entry in history:
        assert entry.keys() >= SCORE_KEYS | CLOCKS | {"loss", "concepts_used"}
        assert 0 <= entry["unsup_miou"] <= 100
        assert entry["images_per_second"] > 0
    assert all(isinstance(value, float) for entry in history for value in entry.values())


@pytest.mark.parametrize("method", ["position", "colour", "kmeans"])
def test_a_method_without_stages_is_clustered_and_scored_once(prepared: Set, method: str) -> None:
    place = fitted(prepared, method, train__eval_every=5)
    assert [entry["epoch"] for entry in place.history] == [1]
    assert place.history[0].keys() >= SCORE_KEYS
    assert place.evaluation is not None
    assert place.evaluation.rows == tiny.SPLITS["val"]


def test_colours_are_found_by_colour(prepared: Set) -> None:
    score = fitted(prepared, "colour", method__height_weight=0.0).history[0]["unsup_miou"]
    assert score > 95
    assert fitted(prepared, "position").history[0]["unsup_miou"] < 60


def test_the_same_run_twice_is_the_same(prepared: Set) -> None:
    first, again = fitted(prepared), fitted(prepared)
    assert timeless(first.history) == timeless(again.history)
    assert equal_states(first.state, again.state)
    other = fitted(prepared, seed=1)
    assert timeless(other.history) != timeless(first.history)


@pytest.mark.parametrize("done", [1, 2])
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    prepared: Set, tmp_path: Path, done: int
) -> None:
    whole = fitted(prepared, train__epochs=3)
    begun = fitted(prepared, train__epochs=done, train__eval_every=1)
    assert begun.state is not None
    begun.state.save(tmp_path)
    run, place = run_of(prepared, train__epochs=3)
    place.state = RunState.load(tmp_path, torch.device("cpu"))
    run.fit()
    assert timeless(begun.history + place.history) == timeless(whole.history)
    assert equal_states(place.state, whole.state)


@pytest.mark.parametrize("method", ["acseg", "kmeans"])
def test_a_finished_run_is_reported_but_not_repeated(prepared: Set, method: str) -> None:
    finished = fitted(prepared, method)
    run, place = run_of(prepared, method)
    place.state = copy.deepcopy(finished.state)
    run.fit()
    assert place.history == finished.history[-1:]


class Shared(PlainContext):
    """Keeps what a run leaves, for the next one."""

    left: RunState | None = None

    def trained(self) -> RunState | None:
        return Shared.left

    def leave(self, state: RunState) -> None:
        Shared.left = state


@pytest.mark.parametrize("method", ["stego", "hp", "cause", "acseg"])
def test_what_another_k_trained_scores_as_what_was_trained_for_it(
    prepared: Set, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shared, "left", None)
    own = fitted(prepared, method, num_clusters=4)
    for clusters in (3, 4):
        run, _ = run_of(prepared, method, num_clusters=clusters)
        run.context = place = Shared(torch.device("cpu"), [])
        run.fit()
    # The second began with the state of the first, and has no times of a training.
    (last,) = place.history
    assert not {"train_seconds", "images_per_second"} & last.keys()
    assert timeless([last]) == timeless(own.history[-1:])
    assert place.state is not None
    assert own.state is not None
    assert place.state.epoch == own.state.epoch
    assert place.state.method.keys() == own.state.method.keys()
    assert all(torch.equal(place.state.method[n], v) for n, v in own.state.method.items())


def test_a_checkpoint_holds_plain_values(prepared: Set, tmp_path: Path) -> None:
    state = fitted(prepared, train__epochs=1).state
    assert state is not None
    state.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
    assert equal_states(RunState.load(tmp_path, torch.device("cpu")), state)


def test_a_loaded_state_scores_as_it_did(prepared: Set) -> None:
    first = fitted(prepared)
    run, _ = run_of(prepared, seed=7)
    assert first.state is not None
    run.method.load_state_dict(first.state.method)
    scores = run.score("val", refit=False).scores
    assert scores is not None
    assert first.evaluation is not None
    assert first.evaluation.scores is not None
    assert np.array_equal(scores.confusion, first.evaluation.scores.confusion)


@pytest.mark.parametrize(
    ("every", "epochs", "scored"), [(1, 3, [1, 2, 3]), (2, 4, [2, 4]), (2, 3, [2, 3]), (9, 2, [2])]
)
def test_scores_come_as_often_as_asked_and_at_the_end(
    prepared: Set, every: int, epochs: int, scored: list[int]
) -> None:
    history = fitted(prepared, train__eval_every=every, train__epochs=epochs).history
    assert [e["epoch"] for e in history] == list(range(1, epochs + 1))
    assert [e["epoch"] for e in history if "unsup_miou" in e] == scored


def test_unlabelled_images_are_segmented(unlabelled: Set) -> None:
    place = fitted(unlabelled)
    assert all("unsup_miou" not in entry for entry in place.history)
    assert place.evaluation is not None
    assert place.evaluation.scores is None
    assert len(place.evaluation.examples.clusters) == 6
    assert place.evaluation.examples.labels == []
    assert place.evaluation.patches.found.any()


def test_stages_follow_each_other(prepared: Set) -> None:
    run, method, place = counting(prepared)
    run.fit()
    marks = [event for event in method.events if event[0] != "step"]
    assert marks == [
        ("first", 0),
        ("first", 1),
        ("second", 2),
        ("fit", tiny.SPLITS["train"]),
        ("second", 3),
        ("fit", tiny.SPLITS["train"]),
    ]
    assert [("unsup_miou" in entry) for entry in place.history] == [False, False, True, True]
    assert [entry["epoch"] for entry in place.history] == [1, 2, 3, 4]
    assert sum(event[0] == "step" for event in method.events) == 12


def test_steps_say_where_they_stand(prepared: Set) -> None:
    run, method, _ = counting(prepared)
    run.fit()
    assert method.steps == [
        (stage, Step(index, 6, index % 3)) for stage in ("first", "second") for index in range(6)
    ]


@pytest.mark.parametrize("steps", [2, 6, 9])
def test_the_crops_of_an_epoch_are_those_of_its_first_walk(prepared: Set, steps: int) -> None:
    run, method, _ = counting(prepared, Looking, train__steps_per_epoch=steps)
    run.fit()
    assert isinstance(method, Looking)
    rows, whole = 4 * steps, tiny.SPLITS["train"]
    assert [(len(met), sum(met)) for met in method.met] == [(rows, min(rows, whole))] * run.epochs


def test_stages_may_differ_in_length(prepared: Set) -> None:
    run, method, place = counting(prepared, Uneven, train__epochs=1)
    assert run.epochs == 3
    run.fit()
    assert [stage for stage, _ in method.steps] == ["first"] * 3 + ["second"] * 6
    assert [step.total for _, step in method.steps] == [3] * 3 + [6] * 6
    assert [("unsup_miou" in entry) for entry in place.history] == [False, True, True]


def test_a_run_that_ends_in_an_unscored_stage_is_scored_once(prepared: Set) -> None:
    run, method, place = counting(prepared, WithoutSecond, train__epochs=2)
    assert run.epochs == 2
    run.fit()
    assert {stage for stage, _ in method.steps} == {"first"}
    assert [("unsup_miou" in entry) for entry in place.history] == [False, True]


def test_neighbours_are_the_images_whose_mean_tokens_are_nearest(prepared: Set) -> None:
    run, _, _ = counting(prepared, Uneven, train__epochs=1)
    run.fit()
    batches = [run.featurise(images) for images in run.reader.passes("train", 5)]
    means = torch.cat([batch.features.tokens.mean((2, 3)) for batch in batches])
    means = means / means.norm(dim=1, keepdim=True)
    nearest = (means @ means.T).argsort(dim=1, descending=True)[:, :3]
    assert run.reader.neighbours is not None
    assert np.array_equal(run.reader.neighbours, nearest.numpy())


@pytest.mark.parametrize("done", [1, 2, 3])
def test_stages_resume_where_they_were(prepared: Set, done: int) -> None:
    _, _, whole = finished = counting(prepared)
    finished[0].fit()

    class Stop(PlainContext):
        def report(self, metrics: Any, state: Any, evaluation: Any) -> None:
            super().report(metrics, copy.deepcopy(state), evaluation)
            if state.epoch == done:
                raise KeyboardInterrupt

    stopped = Stop(torch.device("cpu"), [])
    run, _, _ = counting(prepared)
    run.context = stopped
    with pytest.raises(KeyboardInterrupt):
        run.fit()
    run, _, place = counting(prepared)
    place.state = stopped.state
    run.fit()
    assert timeless(stopped.history + place.history) == timeless(whole.history)
    assert equal_states(place.state, whole.state)


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"train__batch_size": 4}, [4, 4, 4]),
        ({"train__batch_size": 5}, [5, 5]),
        ({"train__batch_size": 14}, [14]),
        ({"train__batch_size": 100}, [14]),
        ({"train__batch_size": 4, "train__steps_per_epoch": 1}, [4]),
        ({"train__batch_size": 4, "train__steps_per_epoch": 6}, [4] * 6),
    ],
)
def test_portions(prepared: Set, settings: dict[str, int], sizes: list[int]) -> None:
    run, method, _ = counting(prepared, Counting, train__epochs=1, **settings)
    run.fit()
    assert method.sizes == sizes * 2


@pytest.mark.parametrize(
    ("world", "message"),
    [(3, r"train.batch_size = 4 is not divisible by 3 workers"), (4, None), (16, None)],
)
def test_portions_of_many_workers(
    prepared: Set, monkeypatch: pytest.MonkeyPatch, world: int, message: str | None
) -> None:
    run, _, _ = counting(prepared, train__batch_size=4 if world < 16 else 16)
    monkeypatch.setattr("usseg_ray.engine.run.world_size", lambda: world)
    if message is None and world < 14:
        assert run._portions() == (3, 1)
        return
    with pytest.raises(UserError, match=message or r"16 workers for fewer"):
        run._portions()


def test_assembling_checks_sizes_and_clusters(prepared: Set) -> None:
    with pytest.raises(UserError, match=r"data\.eval_size = 36 is no multiple"):
        run_of(prepared, data__eval_size=36)
    with pytest.raises(UserError, match="num_clusters is not set"):
        run_of(prepared, num_clusters=None)


@pytest.mark.parametrize("method", ["stego", "smooseg"])
def test_of_two_kinds_of_clusters_the_one_with_the_better_criterion_is_kept(
    prepared: Set, method: str
) -> None:
    learnt = "prototypes" if method == "smooseg" else "probe"
    whole, place = run_of(prepared, method, method__clustering="auto")
    whole.fit()
    last = place.history[-1]
    for kind in ("kmeans", learnt):
        alone = fitted(prepared, method, method__clustering=kind).history[-1]
        assert last[f"clusters.{kind}"] == alone[WITHOUT_LABELS]
    kept = kept_clusters(last)
    assert last[WITHOUT_LABELS] == last[f"clusters.{kept}"]
    # What was kept is in the state, and not fitted again.
    assert place.state is not None
    again, _ = run_of(prepared, method, method__clustering="auto")
    again.method.load_state_dict(place.state.method)
    scores = again.score("val", refit=False).scores
    assert scores is not None
    assert scores.unsup_miou == last["unsup_miou"]
