"""The decoder keeps the finest size and draws by key."""

import torch

from usseg_ray.ops.pyramid import PyramidDecoder


def decoder(seed: int = 0) -> PyramidDecoder:
    return PyramidDecoder([3, 5, 7], 4, torch.Generator().manual_seed(seed))


def test_result_has_the_finest_stage_size() -> None:
    stages = [torch.rand(2, 3, 9, 7), torch.rand(2, 5, 5, 4), torch.rand(2, 7, 3, 2)]
    assert decoder()(stages).shape == (2, 4, 9, 7)


def test_every_stage_counts() -> None:
    stages = [torch.rand(1, width, 4, 4, requires_grad=True) for width in (3, 5, 7)]
    decoder()(stages).sum().backward()
    assert all(stage.grad is not None and stage.grad.all() for stage in stages)


def test_weights_follow_the_generator() -> None:
    first, again, other = (next(decoder(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
