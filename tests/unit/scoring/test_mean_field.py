"""The mean field's contract: what it returns, what it ignores, what it takes."""

import pytest
import torch
from torch import Tensor

from usseg_ray.bench.meter import Work, apart, peak_above_inputs
from usseg_ray.scoring import mean_field as module
from usseg_ray.scoring.mean_field import CRFParameters, mean_field


def given(classes: int = 3, side: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(1, classes, side, side, generator=generator).log_softmax(1)
    pixels = torch.randint(0, 60, (1, 3, side, side), generator=generator, dtype=torch.uint8)
    return log_probs, pixels


def test_marginals_are_probabilities() -> None:
    found = mean_field(*given())
    assert found.dtype == torch.float32
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(1, 40, 40))


def test_two_runs_are_identical() -> None:
    assert torch.equal(mean_field(*given()), mean_field(*given()))


def test_without_steps_only_the_unaries_remain() -> None:
    log_probs, pixels = given()
    torch.testing.assert_close(
        mean_field(log_probs, pixels, CRFParameters(steps=0)), log_probs.exp()
    )


def test_a_constant_per_pixel_does_not_matter() -> None:
    log_probs, pixels = given()
    shifted = log_probs + 3 * torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mean_field(shifted, pixels), mean_field(log_probs, pixels))


def test_a_class_without_probability_stays_without() -> None:
    log_probs, pixels = given()
    log_probs[:, 2] = -torch.inf
    found = mean_field(log_probs, pixels)
    assert found.isfinite().all()
    assert (found[:, 2] == 0).all()


def test_inputs_stay_and_no_gradient_flows() -> None:
    log_probs, pixels = given()
    before = log_probs.clone()
    assert not mean_field(log_probs.requires_grad_(), pixels).requires_grad
    assert torch.equal(log_probs, before)


def test_lower_precision_and_autocast_change_little() -> None:
    log_probs, pixels = given()
    expected = mean_field(log_probs.bfloat16().float(), pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mean_field(log_probs.bfloat16(), pixels)
    assert torch.equal(found, expected)


def test_labels_follow_the_colours() -> None:
    """A speck of wrong labels goes, an edge that the labels miss by four pixels comes back."""
    pixels = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    pixels[..., 20:] = 200
    right = (torch.arange(40) >= 20).expand(1, 40, 40)
    labels = (torch.arange(40) >= 24).repeat(1, 40, 1)
    labels[:, 10:13, 5:8] = True
    log_probs = torch.where(torch.stack([~labels, labels], 1), 0.7, 0.3).log()
    assert (mean_field(log_probs, pixels).argmax(1).bool() == right).all()


@pytest.mark.parametrize("count", [1, 128, 129, 1000, 1025])
def test_blocks_hold_every_pixel_once(count: int) -> None:
    features = torch.rand(count, 5, generator=torch.Generator().manual_seed(0))
    blocks = module._blocks(features)
    assert blocks.features.shape[1] <= module._BLOCK
    assert blocks.real.sum() == count
    assert torch.equal(blocks.members[blocks.places], torch.arange(count))
    assert (blocks.real.flatten()[blocks.places] == 1).all()
    torch.testing.assert_close(blocks.features.flatten(0, 1), features[blocks.members])


def test_what_is_left_out_is_below_the_tolerance() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.tensor([9.0, 9, 90, 1, 1]) * torch.rand(3000, 5, generator=generator)
    blocks = module._blocks(features)
    pairs = module._near_pairs(blocks.features, torch.ones_like(blocks.real))
    count, _, size = blocks.real.shape
    assert (pairs[0] <= pairs[1]).all()
    assert len(pairs.mT.unique(dim=0)) == pairs.shape[1] < 0.7 * count * (count + 1) / 2
    used = torch.zeros(count, count, dtype=torch.bool)
    used[pairs[0], pairs[1]] = used[pairs[1], pairs[0]] = True
    rows = blocks.features.flatten(0, 1)
    weights = (-0.5 * torch.cdist(rows, rows).square()).exp()
    weights[used.repeat_interleave(size, 0).repeat_interleave(size, 1)] = 0
    assert 0 < weights.sum(1).max() <= module._TOLERANCE


SIDE = 192


def photograph() -> Work:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(1, 27, SIDE, SIDE, generator=generator)
    smooth = torch.nn.functional.interpolate(
        255 * torch.rand(1, 3, 10, 10, generator=generator), size=(SIDE, SIDE), mode="bilinear"
    )
    return lambda: mean_field(log_probs, smooth.to(torch.uint8), CRFParameters(steps=1))


def measure() -> float:
    return peak_above_inputs(photograph())


def test_memory_is_bounded() -> None:
    assert apart(measure) < 0.1  # all pairs of pixels would take 5.4 GB
