import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from usseg_ray.ops.adam import Adam, AdamW

PROJECT = Path(__file__).parents[3]


@pytest.mark.parametrize(("ours", "theirs"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
def test_steps_and_states_are_pytorchs_to_the_bit(
    ours: type[torch.optim.Adam], theirs: type[torch.optim.Adam]
) -> None:
    torch.manual_seed(0)
    first = nn.Linear(5, 3)
    second = copy.deepcopy(first)
    made = [
        kind(layer.parameters(), lr=0.1, weight_decay=0.3)
        for kind, layer in ((ours, first), (theirs, second))
    ]
    for step in range(6):
        images = torch.randn(4, 5)
        for optimiser, layer in zip(made, (first, second), strict=True):
            layer(images).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
        if step == 2:  # each goes on from the other's state
            states = [optimiser.state_dict() for optimiser in made]
            made[0].load_state_dict(states[1])
            made[1].load_state_dict(states[0])
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert first.weight.grad is None
    moments = [optimiser.state_dict()["state"][0]["exp_avg"] for optimiser in made]
    assert torch.equal(*moments)


def test_a_step_imports_no_compiler() -> None:
    program = """
import sys, torch
from usseg_ray.ops.adam import Adam, AdamW
for kind in (Adam, AdamW):
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = kind([weight], lr=0.1)
    weight.square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()
    optimiser.load_state_dict(optimiser.state_dict())
print("torch._dynamo" in sys.modules)
"""
    found = subprocess.check_output([sys.executable, "-c", program], cwd=PROJECT, text=True)
    assert found == "False\n"
