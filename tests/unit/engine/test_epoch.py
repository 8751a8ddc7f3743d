"""An epoch says what it learnt, and is taken up again where it was broken off."""

import copy
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.fitting import Broken, Set, counting, equal_states, run_of, timeless
from usseg_ray.core.types import StepResult
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.epoch import NonFiniteLossError
from usseg_ray.engine.run import Run
from usseg_ray.methods import METHODS

LEARNERS = [method.name for method in METHODS if method.stages]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Set:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root)


class Preempted(PlainContext):
    """Is told of a preemption after some steps; the machine goes while more are taken."""

    steps: int = 0
    at: int = 0
    saved: RunState | None = None

    def after_step(self, state: Callable[[], RunState]) -> None:
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
    broken.saved.save(tmp_path)
    run, place = build()
    place.state = RunState.load(tmp_path, torch.device("cpu"))
    epochs = place.state.epoch
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


def test_the_means_are_to_the_bit_those_of_numbers_read_at_every_step(
    prepared: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, place = run_of(prepared, "acseg", train__epochs=1)
    steps: list[dict[str, float]] = []
    loss = type(run.method).loss

    def noted(*arguments: Any) -> StepResult:
        result = loss(*arguments)
        read = {"loss": result.loss.detach(), **result.scalars}
        steps.append({name: float(value) for name, value in read.items()})
        return result

    monkeypatch.setattr(type(run.method), "loss", noted)
    run.fit()
    means: dict[str, float] = {}
    for taken, step in enumerate(steps, 1):
        for name, value in step.items():
            means[name] = means.get(name, 0.0) + (value - means.get(name, 0.0)) / taken
    assert len(steps) > 2
    assert {name: place.history[0][name] for name in means} == means


def test_what_a_step_reports_is_read_once_an_epoch(
    prepared: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = run_of(prepared, "acseg", train__epochs=1)
    reads: list[str] = []
    read = torch.Tensor.__float__

    def counted(self: torch.Tensor) -> float:
        caller = sys._getframe(1).f_code
        if caller.co_filename.endswith("engine/epoch.py"):
            reads.append(caller.co_name)
        return read(self)

    monkeypatch.setattr(torch.Tensor, "__float__", counted)
    run.fit()
    scalars = {"loss", "concepts_used", "prototypes_unused", "max_cosine"}
    assert len(reads) == len(scalars)
