"""Runs on the tiny set for the suites of the engine, and a method that follows what it does."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tests import tiny
from usseg_ray.core.config import MethodConfig
from usseg_ray.core.types import Batch, FeatureSpec, Needs, Step, StepResult
from usseg_ray.data.manifest import Manifest
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.run import Run, assemble
from usseg_ray.methods import get
from usseg_ray.methods.base import Method, ParamGroup, Passes, Stage

Set = tuple[str, Manifest]
CLOCKS = {
    "images_per_second",
    "train_seconds",
    "input_seconds",
    "eval_seconds",
    "label_free_seconds",
}


def context() -> PlainContext:
    return PlainContext(torch.device("cpu"), [])


def run_of(data: Set, method: str = "acseg", **settings: Any) -> tuple[Run, PlainContext]:
    place = context()
    return assemble(tiny.config(method, **settings), get(method), OpenSet(*data), place), place


def fitted(data: Set, method: str = "acseg", **settings: Any) -> PlainContext:
    run, place = run_of(data, method, **settings)
    run.fit()
    return place


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in entry.items() if k not in CLOCKS} for entry in history]


def equal_states(one: Any, other: Any) -> bool:
    if isinstance(one, RunState):
        return isinstance(other, RunState) and equal_states(vars(one), vars(other))
    if isinstance(one, dict):
        keys = one.keys() - CLOCKS
        return keys == other.keys() - CLOCKS and all(equal_states(one[k], other[k]) for k in keys)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal_states, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


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

    def describe(self, batch: Batch) -> Tensor:
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


class Looking(Counting):
    """Looks at an epoch's crops before it, and remembers which of them it learns from."""

    def __init__(
        self, config: MethodConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.met: list[list[bool]] = []

    def on_epoch_start(self, stage: str, epoch: int, passes: Passes) -> None:
        super().on_epoch_start(stage, epoch, passes)
        seen = list(passes.crops(epoch, 5))
        self.seen = {key: view for b in seen for key, view in zip(b.ids, b.pixels, strict=True)}
        self.met.append([])

    def loss(self, batch: Batch, stage: str) -> StepResult:
        self.met[-1] += [
            torch.equal(view, self.seen[key])
            for key, view in zip(batch.ids, batch.pixels, strict=True)
        ]
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
    run = assemble(tiny.config("position", **settings), method, OpenSet(*data), place)
    assert isinstance(run.method, Counting)
    return run, run.method, place
