"""Modularity: derivatives, memory and precision; values are in tests/numerics."""

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from usseg_ray.ops.modularity import affinity, cosine, graph, modularity_loss, pair_intensity


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(5))


def test_pair_intensity_against_the_full_tensor() -> None:
    positive = draw(2, 7, 4).clamp(min=0).requires_grad_()
    full = positive[:, :, None, :] * positive[:, None, :, :]
    weights = draw(2, 7, 7)
    delta, winner = pair_intensity(positive)
    assert torch.equal(delta, full.amax(3))
    assert torch.equal(full.gather(3, winner.long()[..., None])[..., 0], delta)
    # Ties are pairs of zeros: there the full tensor's gradient is a convention, not a value.
    torch.autograd.backward((delta * weights).sum())
    mine = positive.grad
    (reference,) = torch.autograd.grad((full.amax(3) * weights).sum(), positive)
    assert mine is not None
    touched = positive.detach() > 0
    torch.testing.assert_close(mine[touched], reference[touched])


@pytest.mark.parametrize("scale", [None, 0.1])
def test_gradient_by_differences(scale: float | None) -> None:
    pixels, concepts = draw(2, 6, 5), draw(2, 3, 5).flip(0).requires_grad_()
    pixel_graph = graph(affinity(pixels))

    def loss(concepts: Tensor) -> Tensor:
        return modularity_loss(cosine(pixels, concepts), pixel_graph, tanh_scale=scale)

    assert torch.autograd.gradcheck(loss, (concepts,))


def test_rows_of_the_modularity_matrix_sum_to_zero() -> None:
    modularity, _ = graph(affinity(draw(3, 20, 5)))
    torch.testing.assert_close(modularity.sum(2), torch.zeros(3, 20, dtype=torch.float64))


def test_no_gradient_reaches_the_pixels() -> None:
    pixels = draw(1, 6, 5).requires_grad_()
    assert not affinity(pixels).requires_grad


@pytest.mark.parametrize("keep_loops", [True, False])
@pytest.mark.parametrize("pixels", [torch.zeros(1, 4, 3), torch.ones(1, 1, 3), torch.eye(3)[None]])
def test_graph_without_edges_is_finite(pixels: Tensor, keep_loops: bool) -> None:
    pixel_graph = graph(affinity(pixels, keep_loops=keep_loops))
    loss = modularity_loss(cosine(pixels, pixels[:, :1]), pixel_graph)
    assert loss.isfinite().all()


def test_autocast_and_half_are_ignored() -> None:
    pixels, concepts = draw(2, 50, 8, dtype=torch.float32), draw(2, 4, 8, dtype=torch.float32)

    def loss(pixels: Tensor) -> Tensor:
        return modularity_loss(cosine(pixels, concepts), graph(affinity(pixels)))

    plain = loss(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(pixels), plain)
    assert loss(pixels.bfloat16()).dtype == torch.float32


def test_backward_keeps_less_than_two_matrices() -> None:
    count = 128
    soft = draw(1, count, 6, dtype=torch.float32).requires_grad_()
    pixel_graph = graph(affinity(draw(1, count, 8, dtype=torch.float32)))
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        modularity_loss(soft, pixel_graph)
    matrix = count * count * 4
    assert matrix < sum(kept.values()) < 1.5 * matrix
