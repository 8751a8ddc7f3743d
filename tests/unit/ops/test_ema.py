"""Teachers follow their students at the stated pace."""

import pytest
import torch
from torch import nn

from usseg_ray.ops.ema import update_teacher


def filled(value: float) -> nn.Linear:
    layer = nn.Linear(3, 2)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def test_steps_form_a_geometric_series() -> None:
    teacher, student = filled(1.0).requires_grad_(False), filled(5.0)
    for _ in range(3):
        update_teacher(teacher, student, 0.9)
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(slow, torch.full_like(slow, 5 - 4 * 0.9**3))
        assert (fast == 5).all()
        assert fast.grad_fn is None


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 5.0), (1.0, 1.0)])
def test_ends_of_the_range(decay: float, expected: float) -> None:
    teacher = filled(1.0)
    update_teacher(teacher, filled(5.0), decay)
    assert all((parameter == expected).all() for parameter in teacher.parameters())


def test_other_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        update_teacher(nn.Linear(3, 2), nn.Linear(3, 2, bias=False), 0.5)
