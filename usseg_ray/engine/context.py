"""What surrounds a run: where to compute, where to report, what to resume from.

A plain process is one; those under Ray are in `trials.contexts`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from usseg_ray.engine.checkpoint import RunState
from usseg_ray.scoring.evaluation import Evaluation


class RunContext(ABC):
    """What surrounds a run; one that only has to know what comes out of it takes the rest as is.

    Attributes:
        device: Where to compute.
    """

    device: torch.device

    @abstractmethod
    def report(
        self, metrics: dict[str, float], state: RunState, evaluation: Evaluation | None
    ) -> None:
        """Takes an epoch's metrics and the state to resume from; called on every worker alike."""

    def after_step(self, state: Callable[[], RunState]) -> None:  # noqa: B027 (lets it pass)
        """May take a state within an epoch; called after every step, on every worker alike."""

    def restore(self) -> RunState | None:
        """Returns the last state taken, or `None` on a first start."""
        return None

    def trained(self) -> RunState | None:
        """Returns what another run left that trained alike, if any did; see `leave`."""
        return None

    def leave(self, state: RunState) -> None:  # noqa: B027 (keeps nothing)
        """May keep what was trained for runs that differ in what training does not read.

        Called on every worker alike; the state has no clusters.
        """


@dataclass
class PlainContext(RunContext):
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

    def restore(self) -> RunState | None:
        """Returns the kept state."""
        return self.state
