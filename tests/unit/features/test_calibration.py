import pytest
import torch
from torch import Tensor

from usseg_ray.core.calibration import Statistics
from usseg_ray.features.calibration import measure_channels, measure_tokens


def tokens(seed: int = 0) -> Tensor:
    """Makes tokens whose first half of images differ from the second, with a place in each."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(12, 8, 6, 6, generator=generator)
    drawn[6:, 0] += 2
    drawn[:, 1] += torch.linspace(-3, 3, 6)
    return drawn


def test_channels_in_another_order_and_longer_tokens_measure_the_same() -> None:
    drawn = tokens()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    close(measure_tokens(drawn[:, order] * 7), measure_tokens(drawn))


def test_one_vector_added_to_all_tokens_is_noticed_unless_it_is_taken_off() -> None:
    drawn = tokens()
    moved = drawn + 5 * torch.randn(8, 1, 1, generator=torch.Generator().manual_seed(1))
    assert measure_tokens(moved).random.above(0.5) > measure_tokens(drawn).random.above(0.5) + 0.1
    mean = (0, 2, 3)
    close(
        measure_tokens(moved - moved.mean(mean, keepdim=True)),
        measure_tokens(drawn - drawn.mean(mean, keepdim=True)),
    )


def test_channels_have_a_mean_and_a_deviation() -> None:
    drawn = tokens()
    drawn[:, 3] = 0.25
    mean, std = measure_channels(drawn)
    assert mean[0] == pytest.approx(drawn[:, 0].mean().item(), rel=1e-5)
    assert std[1] == pytest.approx(drawn[:, 1].std(correction=0).item(), rel=1e-5)
    assert (mean[3], std[3]) == (0.25, 1.0)


def test_facts_of_tokens_that_were_made_for_it() -> None:
    generator = torch.Generator().manual_seed(0)
    # Every image has one direction of its own, shared by pairs of images.
    directions = torch.eye(8)[torch.arange(16) % 8]
    found = measure_tokens(directions[:, :, None, None].expand(16, 8, 4, 4).contiguous())
    assert found.within.levels == found.similar.levels
    assert found.within.above(0.5) == pytest.approx(1.0)
    assert found.position_share == 0
    noise = measure_tokens(torch.randn(16, 8, 8, 8, generator=generator))
    assert noise.effective_rank == pytest.approx(8, abs=0.3)
    assert noise.within.above(0.5) == pytest.approx(0, abs=0.05)
    placed = torch.arange(16.0).view(1, 1, 4, 4).expand(16, 8, 4, 4)
    assert measure_tokens(placed).position_share == pytest.approx(1)


def test_levels_fall() -> None:
    levels = measure_tokens(tokens()).within.levels
    assert sorted(levels, reverse=True) == list(levels)


def close(found: Statistics, wanted: Statistics) -> None:
    for kind in ("within", "similar", "random"):
        levels = getattr(found, kind).levels
        assert levels == pytest.approx(getattr(wanted, kind).levels, abs=2e-5)
    assert found.effective_rank == pytest.approx(wanted.effective_rank, abs=1e-3)
    assert found.position_share == pytest.approx(wanted.position_share, abs=1e-3)
