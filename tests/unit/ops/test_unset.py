import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from usseg_ray.ops.unset import unset

PROJECT = Path(__file__).parents[3]


def test_parameters_of_all_parts_get_memory_of_their_own() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Conv2d(2, 4, 1, bias=False))
    module[0].bias.requires_grad = False
    before = torch.get_rng_state()
    made = unset(module)
    assert made is module
    assert torch.equal(before, torch.get_rng_state())
    found = {name: (tuple(own.shape), own.requires_grad) for name, own in made.named_parameters()}
    assert found == {
        "0.weight": ((2, 3), True),
        "0.bias": ((2,), False),
        "2.weight": ((4, 2, 1, 1), True),
    }
    for own in made.parameters():
        nn.init.constant_(own, 2)
    assert all((own == 2).all() for own in made.parameters())


def test_no_library_for_symbolic_sizes_is_imported() -> None:
    program = """
import sys, torch
from usseg_ray.ops.unset import unset
unset(torch.nn.Linear(3, 2, device="meta"))
print("sympy" in sys.modules)
"""
    found = subprocess.check_output([sys.executable, "-c", program], cwd=PROJECT, text=True)
    assert found == "False\n"
