"""Transformer parts; their values are in tests/numerics/test_acseg.py."""

import pytest
import torch

from usseg_ray.methods.parts.transformer import DecoderBlock, ResidualBlock, linear
from usseg_ray.settings.acseg import Norm


def test_weights_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again = (linear(6, 4, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first.weight, again.weight)
    assert first.weight.abs().max() > 0
    assert not first.bias.any()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_block_knows_no_order(norm: Norm) -> None:
    random = torch.Generator().manual_seed(2)
    block = DecoderBlock(8, 2, ffn_ratio=2, norm=norm, activation="gelu", generator=random).double()
    vectors = torch.randn(2, 3, 8, dtype=torch.float64, generator=random)
    tokens = torch.randn(2, 10, 8, dtype=torch.float64, generator=random)
    out = block(vectors, tokens)
    torch.testing.assert_close(block(vectors, tokens.flip(1)), out)
    torch.testing.assert_close(block(vectors.flip(1), tokens), out.flip(1))


def test_a_residual_block_begins_as_nothing_and_learns() -> None:
    random = torch.Generator().manual_seed(3)
    block, tokens = ResidualBlock(6, random), torch.randn(2, 6, 3, 4, generator=random)
    assert torch.equal(block(tokens), tokens)
    optimiser = torch.optim.SGD(block.parameters(), lr=1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        block(tokens).square().sum().backward()
        optimiser.step()
    # After a step the last layers are no zeros, so that all before them learn too; but a bias of
    # keys moves all logits of a query alike.
    reached = {name for name, p in block.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name for name, _ in block.named_parameters()} - {"attention.key.bias"} <= reached
    alone = block(tokens)[0, :, 0, 0]
    tokens[0, 0, 2, 3] += 1
    assert not torch.equal(block(tokens)[0, :, 0, 0], alone)
