"""Exponential moving averages of a student's weights: the teachers of HP, CAUSE and SmooSeg."""

import torch
from torch import nn


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Moves a teacher towards its student: `teacher = decay * teacher + (1 - decay) * student`.

    Args:
        teacher: Same architecture as the student; changed in place.
        student: Left as it is.
        decay: In [0, 1]; 0 copies the student.
    """
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.mul_(decay).add_(fast, alpha=1 - decay)
