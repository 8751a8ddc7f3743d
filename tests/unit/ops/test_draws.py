"""Draws of images depend on key and id alone."""

import pytest
import torch

from usseg_ray.ops.draws import dropout_mask, uniforms

IDS = tuple("abcdefgh")


def test_batch_and_order_do_not_matter() -> None:
    rows = uniforms(IDS, (3, 2), 7, "test", 0)
    assert rows.shape == (8, 3, 2)
    assert rows.dtype == torch.float32
    assert torch.equal(uniforms(IDS[::-1], (3, 2), 7, "test", 0), rows.flip(0))
    assert torch.equal(uniforms(IDS[2:5], (3, 2), 7, "test", 0), rows[2:5])


def test_every_part_of_the_key_counts() -> None:
    keys = [(7, "test", 0), (8, "test", 0), (7, "other", 0), (7, "test", 1)]
    drawn = [uniforms(IDS, (4,), *key) for key in keys]
    rows = torch.cat(drawn)
    assert len(rows.unique(dim=0)) == len(rows)


def test_draws_are_even_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    values = uniforms(IDS, (5000,), "even")
    assert torch.equal(torch.get_rng_state(), before)
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values, bins=10, min=0, max=1) / values.numel()
    torch.testing.assert_close(counts, torch.full((10,), 0.1), atol=0.01, rtol=0)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5])
def test_masks_keep_the_mean(probability: float) -> None:
    mask = dropout_mask(uniforms(IDS, (5000,), "mask"), probability)
    kept = 1 / (1 - probability)
    assert set(mask.unique().tolist()) <= {0.0, torch.tensor(kept).item()}
    assert float(mask.mean()) == pytest.approx(1, abs=0.02)
    assert float((mask == 0).float().mean()) == pytest.approx(probability, abs=0.02)
