import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from usseg_ray.batch import Batch, FeatureSpec, Needs, Step, StepResult
from usseg_ray.config import MethodConfig, UserError
from usseg_ray.data.shards import Manifest
from usseg_ray.epoch import NonFiniteLossError
from usseg_ray.loop import Run, assemble
from usseg_ray.methods import METHODS, get
from usseg_ray.methods.base import Method, ParamGroup, Passes, Stage
from usseg_ray.run_context import CHECKPOINT, PlainContext, load_state, save_state

Set = tuple[str, Manifest]
SCORE_KEYS = {
    "unsup_miou",
    "unsup_acc",
    "boundary_f",
    "many_to_one_miou",
    "used_clusters",
    "collapsed",
}
LEARNERS = [method.name for method in METHODS if method.stages]
CLOCKS = {
    "images_per_second",
    "train_seconds",
    "input_seconds",
    "eval_seconds",
    "label_free_seconds",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Set:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Set:
    root = tmp_path_factory.mktemp("unlabelled")
    return str(root), tiny.write(root, labelled=False, splits={"train": 9})


def context() -> PlainContext:
    return PlainContext(torch.device("cpu"), [])


def run_of(data: Set, method: str = "acseg", **settings: Any) -> tuple[Run, PlainContext]:
    place = context()
    return assemble(tiny.config(method, **settings), get(method), *data, place), place


def fitted(data: Set, method: str = "acseg", **settings: Any) -> PlainContext:
    run, place = run_of(data, method, **settings)
    run.fit()
    return place


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in entry.items() if k not in CLOCKS} for entry in history]


def equal_states(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        keys = one.keys() - CLOCKS
        return keys == other.keys() - CLOCKS and all(equal_states(one[k], other[k]) for k in keys)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal_states, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


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
    save_state(begun.state, tmp_path)
    run, place = run_of(prepared, train__epochs=3)
    place.state = load_state(tmp_path, torch.device("cpu"))
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


def test_a_checkpoint_holds_plain_values(prepared: Set, tmp_path: Path) -> None:
    state = fitted(prepared, train__epochs=1).state
    assert state is not None
    save_state(state, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    assert equal_states(load_state(tmp_path, torch.device("cpu")), state)


def test_a_loaded_state_scores_as_it_did(prepared: Set) -> None:
    first = fitted(prepared)
    run, _ = run_of(prepared, seed=7)
    assert first.state is not None
    run.method.load_state_dict(first.state["method"])
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


class Counting(Method):
    """Follows what the engine does; one weight learns, and loss number `bad_at` is not a number."""

    name = "counting"
    Config = MethodConfig
    stages: ClassVar[tuple[Stage, ...]] = (Stage("first", scored=False), Stage("second"))
    bad_at: ClassVar[int | None] = None

    def __init__(
        self, config: MethodConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.weight = nn.Parameter(torch.ones(1))
        self.events: list[tuple[str, str | int]] = []
        self.sizes: list[int] = []
        self.steps: list[tuple[str, Step]] = []

    def param_groups(self, stage: str) -> list[ParamGroup]:  # noqa: ARG002
        return [ParamGroup([self.weight], lr=0.1)]

    def on_epoch_start(self, stage: str, epoch: int, passes: Passes) -> None:  # noqa: ARG002
        self.events.append((stage, epoch))

    def before_step(self, stage: str, step: Step, passes: Passes) -> None:
        self.steps.append((stage, step))
        if step.in_epoch == 1:
            ids = [key for batch in passes.crops(step.index, 4) for key in batch.ids]
            assert len(set(ids)) == tiny.SPLITS["train"]

    def loss(self, batch: Batch, stage: str) -> StepResult:
        assert (stage, batch.step) == self.steps[-1]
        self.sizes.append(len(batch.ids))
        bad = self.bad_at == len(self.sizes) - 1
        loss = self.weight.square().sum() * (float("nan") if bad else 1.0)
        return StepResult(loss, {"term": loss.detach()})

    def after_step(self) -> None:
        self.events.append(("step", len(self.sizes)))

    def fit_clusters(self, passes: Passes) -> None:
        self.events.append(("fit", sum(len(batch.ids) for batch in passes())))

    def encode(self, batch: Batch) -> Tensor:
        return batch.features.tokens

    def predict(self, batch: Batch) -> Tensor:
        return batch.features.tokens[:, : self.num_clusters]


class Uneven(Counting):
    """Takes twice as long over its second stage, and wants neighbours."""

    @classmethod
    def needs(cls, config: Any) -> Needs:  # noqa: ARG003
        return Needs(neighbours=2)

    @classmethod
    def stage_epochs(cls, config: Any, epochs: int) -> tuple[int, ...]:  # noqa: ARG003
        return epochs, 2 * epochs

    def loss(self, batch: Batch, stage: str) -> StepResult:
        assert batch.positive is not None
        assert batch.positive.tokens.shape == batch.features.tokens.shape
        assert not torch.equal(batch.positive.tokens, batch.features.tokens)
        return super().loss(batch, stage)


class WithoutSecond(Counting):
    """Leaves its second stage out."""

    @classmethod
    def stage_epochs(cls, config: Any, epochs: int) -> tuple[int, ...]:  # noqa: ARG003
        return epochs, 0


class Broken(Counting):
    bad_at: ClassVar[int | None] = 4


def counting(
    data: Set, method: type[Counting] = Counting, **settings: Any
) -> tuple[Run, Counting, PlainContext]:
    place = context()
    run = assemble(tiny.config("position", **settings), method, *data, place)
    assert isinstance(run.method, Counting)
    return run, run.method, place


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
            if state["epoch"] == done:
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


class Preempted(PlainContext):
    """Is told of a preemption after some steps; the machine goes while more are taken."""

    steps: int = 0
    at: int = 0
    saved: dict[str, Any] | None = None

    def after_step(self, state: Callable[[], dict[str, Any]]) -> None:
        self.steps += 1
        if self.steps == self.at:
            self.saved = copy.deepcopy(state())
        if self.steps == self.at + 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("method", "at"),
    [*product(LEARNERS, (1, 4)), ("acseg", 3), *product(["counting"], (1, 2, 4, 6, 7, 8))],
)
def test_a_run_goes_on_from_within_an_epoch(
    prepared: Set, tmp_path: Path, method: str, at: int
) -> None:
    def build() -> tuple[Run, PlainContext]:
        if method != "counting":
            return run_of(prepared, method)
        run, _, place = counting(prepared)
        return run, place

    whole_run, whole = build()
    whole_run.fit()
    run, begun = build()
    run.context = broken = Preempted(torch.device("cpu"), begun.history)
    broken.at = at
    with pytest.raises(KeyboardInterrupt):
        run.fit()
    assert broken.saved is not None
    save_state(broken.saved, tmp_path)
    run, place = build()
    place.state = load_state(tmp_path, torch.device("cpu"))
    epochs = place.state["epoch"]
    run.fit()
    assert timeless(begun.history[:epochs] + place.history) == timeless(whole.history)
    assert equal_states(place.state, whole.state)


def test_a_loss_that_is_no_number_names_step_images_and_terms(prepared: Set) -> None:
    run, _, place = counting(prepared, Broken)
    with pytest.raises(NonFiniteLossError) as caught:
        run.fit()
    message = str(caught.value)
    assert message.startswith("loss is nan at step 4 of stage 'first', images ['train-")
    assert message.endswith("terms {'term': nan}")
    assert [entry["epoch"] for entry in place.history] == [1]


def test_metrics_are_means_over_the_steps(prepared: Set) -> None:
    run, _, place = counting(prepared, train__epochs=1)
    run.fit()
    # AdamW's first steps are of the learning rate's size: 1, 0.9 and 0.8 squared.
    assert place.history[0]["loss"] == pytest.approx((1 + 0.81 + 0.64) / 3, abs=0.01)
    assert place.history[0]["term"] == place.history[0]["loss"]


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
    monkeypatch.setattr("usseg_ray.loop.world_size", lambda: world)
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
