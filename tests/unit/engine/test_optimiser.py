import copy

import pytest
import torch
from torch import nn

from usseg_ray.engine.optimiser import Optimiser
from usseg_ray.methods.base import ParamGroup


def test_warm_up_rises_linearly_and_gradients_are_clipped() -> None:
    weight = nn.Parameter(torch.zeros(4))
    optimiser = Optimiser([ParamGroup([weight], lr=1.0, clip_norm=0.5, warmup_steps=4)])
    rates = []
    for _ in range(6):
        weight.grad = torch.full((4,), 100.0)
        optimiser.step()
        rates.append(optimiser.parts[0].param_groups[0]["lr"])
        moment = optimiser.parts[0].state[weight]["exp_avg"]
    assert rates == [0.25, 0.5, 0.75, 1, 1, 1]
    # The norm 200 was cut to 0.5, a quarter for each of four equal parts.
    assert moment.tolist() == pytest.approx([0.25 * (1 - 0.9**6)] * 4, rel=1e-4)
    assert weight.grad is None


def rates(group: ParamGroup, steps: int, steps_per_epoch: int) -> list[float]:
    optimiser, found = Optimiser([group], steps_per_epoch), []
    for _ in range(steps):
        group.params[0].grad = torch.ones(4)
        optimiser.step()
        found.append(optimiser.parts[0].param_groups[0]["lr"])
    return found


def test_a_rate_falls_by_epochs() -> None:
    group = ParamGroup([nn.Parameter(torch.zeros(4))], lr=1.0, lr_factor=0.5, lr_epochs=2)
    assert rates(group, 10, 2) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_groups_learn_as_torchs_own_optimisers(kind: str) -> None:
    makes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    ours, theirs = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    other = nn.Parameter(torch.ones(2))
    groups = [
        ParamGroup([ours], lr=0.1, optimiser=kind, weight_decay=0.3),  # type: ignore[arg-type]
        ParamGroup([other], lr=0.5),
    ]
    optimiser, expected = Optimiser(groups), makes[kind]([theirs], lr=0.1, weight_decay=0.3)
    for step in range(3):
        gradient = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
        ours.grad, theirs.grad, other.grad = gradient.clone(), gradient, torch.ones(2)
        optimiser.step()
        expected.step()
    assert torch.equal(ours, theirs)
    assert (other < 0).all()


def test_a_loaded_state_goes_on_alike() -> None:
    weight = nn.Parameter(torch.ones(3))
    group = ParamGroup([weight], lr=0.1, warmup_steps=4)
    optimiser = Optimiser([group])
    for _ in range(2):
        weight.grad = torch.tensor([1.0, 2.0, 3.0])
        optimiser.step()
    twin = nn.Parameter(weight.detach().clone())
    resumed = Optimiser([ParamGroup([twin], lr=0.1, warmup_steps=4)])
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for one, parameter in ((optimiser, weight), (resumed, twin)):
        parameter.grad = torch.tensor([-1.0, 0.0, 5.0])
        one.step()
    assert torch.equal(weight, twin)
