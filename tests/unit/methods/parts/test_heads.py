"""The segmentation head: its two branches, its masks, and weights drawn as torch draws them."""

import pytest
import torch
from torch import nn

from usseg_ray.methods.parts.heads import (
    HeadActivation,
    HeadMasks,
    SegmentationHead,
    initialise_like_torch,
    masked_projection,
    update_teacher,
)

TOKENS = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))


def head(seed: int = 0, activation: HeadActivation = "relu") -> SegmentationHead:
    return SegmentationHead(6, 5, torch.Generator().manual_seed(seed), activation)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_codes_against_matrices(activation: HeadActivation) -> None:
    module = head(activation=activation)
    keep = torch.rand(2, 2, 6, 1, 1, generator=torch.Generator().manual_seed(1))
    codes = module(TOKENS, HeadMasks(keep[0], keep[1]))
    weights = {name: value.flatten(1) for name, value in module.named_parameters() if "w" in name}
    bend = nn.functional.relu if activation == "relu" else nn.functional.silu
    for y in range(3):
        for x in range(4):
            plain, curved = ((TOKENS * mask)[:, :, y, x] for mask in keep)
            hidden = bend(curved @ weights["hidden.weight"].T + module.hidden.bias)
            expected = plain @ weights["linear.weight"].T + module.linear.bias
            expected = expected + hidden @ weights["output.weight"].T + module.output.bias
            torch.testing.assert_close(codes[:, :, y, x], expected)


def test_without_masks_nothing_is_dropped() -> None:
    kept = torch.ones(2, 6, 1, 1)
    module = head()
    torch.testing.assert_close(module(TOKENS), module(TOKENS, HeadMasks(kept, kept)))


def test_masks_in_the_weights_learn_what_masks_of_the_tokens_do() -> None:
    random = torch.Generator().manual_seed(2)
    layers = [nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)]
    layers[1].load_state_dict(layers[0].state_dict())
    steps = [torch.optim.Adam(layer.parameters(), lr=0.01) for layer in layers]
    for _ in range(20):
        tokens = torch.randn(2, 6, 3, 4, generator=random)
        mask = torch.rand(2, 6, 1, 1, generator=random)
        found = [masked_projection(layers[0], tokens, mask), layers[1](tokens * mask)]
        losses = [codes.square().mean() for codes in found]
        torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
        for loss, step in zip(losses, steps, strict=True):
            step.zero_grad()
            loss.backward()
            step.step()


@pytest.mark.parametrize("shape", [(2, 6, 1, 1), (2, 6, 3, 4), (2, 6, 3, 1)])
@pytest.mark.parametrize("outputs", [5, 12, 30])
def test_masks_of_any_form_are_the_same(shape: tuple[int, ...], outputs: int) -> None:
    layer, mask = nn.Conv2d(6, outputs, 1), torch.rand(shape)
    expected = layer(TOKENS * mask)
    torch.testing.assert_close(masked_projection(layer, TOKENS, mask), expected)
    last = TOKENS.to(memory_format=torch.channels_last)
    torch.testing.assert_close(masked_projection(layer, last, mask), expected)


def test_generator_alone_decides_the_weights() -> None:
    before = torch.get_rng_state()
    first, again, other = (nn.utils.parameters_to_vector(head(s).parameters()) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(7, 40, 3), nn.Linear(63, 40), nn.Linear(63, 40, False)]
)
def test_weights_are_spread_as_torch_spreads_them(layer: nn.Module) -> None:
    own = nn.utils.parameters_to_vector(layer.parameters()).detach().clone()
    initialise_like_torch(layer, torch.Generator().manual_seed(0))
    drawn = nn.utils.parameters_to_vector(layer.parameters()).detach()
    assert not torch.equal(own, drawn)
    # Both fan-ins are 63: uniform within 1 / sqrt(63).
    for values in (own, drawn):
        assert values.abs().max() <= 63**-0.5
        assert float(values.std()) == pytest.approx((63 * 3) ** -0.5, rel=0.05)
        assert float(values.mean()) == pytest.approx(0, abs=5e-3)


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
