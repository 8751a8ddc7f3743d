"""What surrounds a run: where to compute, where to report, what to resume from.

A plain process is one; those under Ray are in `trials.contexts`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from usseg_ray.engine.checkpoint import RunState
from usseg_ray.scoring.evaluation import Evaluation


@runtime_checkable
class RunContext(Protocol):
    """What surrounds a run."""

    device: torch.device

    def report(
        self, metrics: dict[str, float], state: RunState, evaluation: Evaluation | None
    ) -> None:
        """Takes an epoch's metrics and the state to resume from; called on every worker alike."""

    def after_step(self, state: Callable[[], RunState]) -> None:
        """May take a state within an epoch; called after every step, on every worker alike."""

    def restore(self) -> RunState | None:
        """Returns the last state taken, or `None` on a first start."""

    def trained(self) -> RunState | None:
        """Returns what another run left that trained alike, if any did; see `leave`."""

    def leave(self, state: RunState) -> None:
        """May keep what was trained for runs that differ in what training does not read.

        Called on every worker alike; the state has no clusters.
        """


@dataclass
class PlainContext:
    """A run in this very process, which keeps what is reported.

    Attributes:
        device: Where to compute.
        history: Metrics of every report.
        state: The last state; set it to resume.
        evaluation: The last evaluation.
    """

    device: torch.device
    history: list[dict[str, float]]
    state: RunState | None = None
    evaluation: Evaluation | None = None

    def report(
        self, metrics: dict[str, float], state: RunState, evaluation: Evaluation | None
    ) -> None:
        """Keeps the metrics, the state and the evaluation."""
        self.history.append(metrics)
        self.state = state
        self.evaluation = evaluation

    def after_step(self, state: Callable[[], RunState]) -> None:
        """Lets the step pass: whoever ends this process takes what it kept."""

    def restore(self) -> RunState | None:
        """Returns the kept state."""
        return self.state

    def trained(self) -> RunState | None:
        """Knows no other run."""

    def leave(self, state: RunState) -> None:
        """Keeps nothing for others."""
