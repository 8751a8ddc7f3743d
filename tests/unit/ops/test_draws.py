"""Draws of images depend on key and id alone."""

import pytest
import torch

from usseg_ray.core.keys import key_seed
from usseg_ray.ops.draws import chances, dropout_mask, uniforms

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


def hashed(number: int) -> int:
    """The last step of MurmurHash3 for 32 bits, on whole numbers without a sign."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        number = (number ^ number >> shift) * factor % 2**32
    return number ^ number >> 16


@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_chances_are_hashes_of_place_and_key(share: float) -> None:
    found = chances(IDS[:2], (7, 30), share, 3, "pairs", device=torch.device("cpu"))
    assert found.dtype == torch.bool
    for name, row in zip(IDS, found, strict=False):
        seed = key_seed(3, "pairs", name)
        low, high = seed % 2**32, seed >> 32
        drawn = [hashed((hashed(place ^ low) + high) % 2**32) % 2**24 for place in range(210)]
        assert row.flatten().tolist() == [one < share * 2**24 for one in drawn]


def test_chances_are_even_and_independent() -> None:
    found = chances(IDS, (400, 400), 0.1, "pairs", device=torch.device("cpu")).float()
    # Five deviations of what independent draws of that share have.
    for dims, count in (((1, 2), 160_000), ((0, 2), 3_200), ((0, 1), 3_200)):
        off = (found.mean(dims) - 0.1).abs().max()
        assert off < 5 * (0.09 / count) ** 0.5
    centred = found.flatten(1) - found.flatten(1).mean(1, keepdim=True)
    alike = torch.corrcoef(centred) - torch.eye(len(IDS))
    assert alike.abs().max() < 5 / 400
    for shift in (1, 2, 16, 400, 65_536):
        assert (centred * centred.roll(shift, 1)).mean(1).abs().max() < 5 * 0.09 / 400


def test_no_image_and_no_place_changes_anothers_chances() -> None:
    cpu = torch.device("cpu")
    whole = chances(IDS, (5, 6), 0.3, "pairs", device=cpu)
    assert torch.equal(chances(IDS[::-1], (5, 6), 0.3, "pairs", device=cpu), whole.flip(0))
    assert not torch.equal(chances(IDS, (5, 6), 0.3, "others", device=cpu), whole)
    assert not chances(IDS, (5, 6), 0.0, "pairs", device=cpu).any()
