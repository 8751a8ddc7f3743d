"""Modularity: derivatives, memory and precision; values are in tests/numerics."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from usseg_ray.ops import modularity as module
from usseg_ray.ops.modularity import (
    affinity,
    cosine,
    graph,
    image_losses,
    modularity_loss,
    pair_intensity,
)


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
    (mine,) = torch.autograd.grad((delta * weights).sum(), positive)
    (reference,) = torch.autograd.grad((full.amax(3) * weights).sum(), positive)
    touched = positive.detach() > 0
    torch.testing.assert_close(mine[touched], reference[touched])


def plain_intensity(positive: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Writes the definition down: a running maximum with masks, and its gradient."""
    delta = positive.new_zeros(len(positive), positive.shape[1], positive.shape[1])
    winner = torch.zeros_like(delta, dtype=torch.uint8)
    for concept in range(positive.shape[2]):
        product = positive[:, :, concept, None] * positive[:, None, :, concept]
        winner[product > delta] = concept
        delta = torch.maximum(delta, product)
    by_concept = []
    for concept in range(positive.shape[2]):
        column, won = positive[:, :, concept, None], grad.where(winner == concept, 0)
        by_concept.append(won @ column + won.mT @ column)
    return delta, winner, torch.cat(by_concept, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("concepts", [1, 5, 256])
def test_pair_intensity_to_the_bit(dtype: torch.dtype, concepts: int) -> None:
    # Halves tie often, and half of the factors are 0.
    positive = (2 * draw(2, 23, concepts, dtype=dtype)).round().div(2).clamp(min=0).requires_grad_()
    grad = draw(2, 23, 23, dtype=dtype)
    delta, winner = pair_intensity(positive)
    (by_positive,) = torch.autograd.grad(delta, positive, grad)
    expected = plain_intensity(positive.detach(), grad)
    assert all(map(torch.equal, (delta, winner, by_positive), expected))


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


def kept_bytes(compute: Callable[[], Tensor]) -> int:
    """Adds up what the graph of a result holds for its backward pass."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        compute()
    return sum(kept.values())


def test_backward_keeps_no_matrix_of_pairs_and_concepts() -> None:
    count, concepts = 128, 6
    soft = draw(1, count, concepts, dtype=torch.float32).requires_grad_()
    pixels = draw(1, count, 8, dtype=torch.float32)
    pixel_graph = graph(affinity(pixels))
    matrix = count * count * 4
    assert matrix < kept_bytes(lambda: modularity_loss(soft, pixel_graph)) < 1.5 * matrix
    losses: Any = image_losses(pixels, soft)
    assert [kept.shape for kept in losses.grad_fn.saved_tensors] == [soft.shape]


@pytest.mark.parametrize("pairs", [1, 2 * 20 * 20, 10**6])
def test_images_one_by_one_equal_the_batch(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._PAIRS_AT_A_TIME, "cpu", pairs)
    pixels, soft = draw(5, 20, 6), draw(5, 20, 3).requires_grad_()
    weights = draw(5)
    pixel_graph = graph(affinity(pixels, keep_loops=False), gamma=1.3)
    whole = modularity_loss(soft, pixel_graph, tanh_scale=0.2)
    parts = image_losses(pixels, soft, gamma=1.3, keep_loops=False, tanh_scale=0.2)
    torch.testing.assert_close(parts, whole)
    expected = torch.autograd.grad((weights * whole).sum(), soft)
    torch.testing.assert_close(torch.autograd.grad((weights * parts).sum(), soft), expected)
