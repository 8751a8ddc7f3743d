"""How parameter groups learn: averaging over workers, clipping, warm-up, decay, and the step."""

from typing import Any

import torch

from usseg_ray.core.distributed import average_gradients
from usseg_ray.methods.base import ParamGroup
from usseg_ray.ops.adam import Adam, AdamW

_KINDS = {"adamw": AdamW, "adam": Adam}


class Optimiser:
    """Adam and AdamW over a method's parameter groups, each with its own rate and clipping.

    Args:
        groups: What learns, and how.
        steps_per_epoch: Steps after which a group's rate may fall.
    """

    def __init__(self, groups: list[ParamGroup], steps_per_epoch: int = 1) -> None:
        self.groups = groups
        self.steps_per_epoch = steps_per_epoch
        self.step_count = 0
        self.parts = [
            _KINDS[group.optimiser](
                group.params, lr=group.lr, weight_decay=group.weight_decay, betas=group.betas
            )
            for group in groups
        ]

    def step(self) -> None:
        """Averages gradients over the workers, clips, and takes one step."""
        for group, part in zip(self.groups, self.parts, strict=True):
            average_gradients(group.params)
            if group.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(group.params, group.clip_norm)
            part.param_groups[0]["lr"] = self._rate(group)
            part.step()
            part.zero_grad()
        self.step_count += 1

    def _rate(self, group: ParamGroup) -> float:
        warm = min(1.0, (self.step_count + 1) / max(1, group.warmup_steps))
        falls = self.step_count // self.steps_per_epoch // group.lr_epochs
        return group.lr * warm * float(group.lr_factor**falls)

    def state_dict(self) -> dict[str, Any]:
        """Returns moments and step count."""
        return {"parts": [part.state_dict() for part in self.parts], "steps": self.step_count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from moments and step count."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.step_count = state["steps"]
