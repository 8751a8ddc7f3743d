"""Hidden positives in batches that golden vectors do not have, and the memory of the kernel."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from tests.rounded import as_on_a_gpu
from usseg_ray.methods.parts import contrastive
from usseg_ray.methods.parts.contrastive import (
    Candidates,
    Contrast,
    ContrastiveOptions,
    best_match,
    consistency_loss,
    draw_denominators,
    hidden_positive_loss,
)

OPTIONS = ContrastiveOptions(temperature=0.5, task_weight=0.5)
PATCHES = 6

CPU = torch.device("cpu")


def rows(count: int, dim: int, seed: int) -> Tensor:
    return normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def kind(images: int, seed: int, best: float) -> Candidates:
    return Candidates(rows(images * PATCHES, 5, seed), torch.full((images * PATCHES,), best))


def contrast(
    images: int, agnostic: Candidates, specific: Candidates | None = None, share: float = 0.4
) -> tuple[Contrast, list[Tensor]]:
    """Computes the loss and its gradients on fixed codes."""
    codes, mixed = (rows(images * PATCHES, 4, seed).requires_grad_() for seed in (1, 2))
    ids = [str(image) for image in range(images)]
    sampled = draw_denominators(ids, PATCHES, share, "denominators", device=CPU)
    found = hidden_positive_loss(codes, mixed, agnostic, specific, sampled, PATCHES, OPTIONS)
    grads = list(torch.autograd.grad(found.loss, (codes, mixed)))
    assert all(grad.isfinite().all() for grad in grads)
    return found, grads


@pytest.mark.parametrize("share", [1e-9, 0.4, 1.0])
def test_a_batch_without_positives_has_loss_and_gradient_zero(share: float) -> None:
    found, grads = contrast(3, kind(3, 3, best=1.1), kind(3, 4, best=0.0), share)
    assert found.loss == 0
    assert not any(grad.any() for grad in grads)
    assert not found.agnostic.any()
    assert found.specific.any()


def test_an_image_without_anchors_is_left_out_of_the_mean() -> None:
    both = kind(2, 3, best=0.2)
    # No patch of the second image reaches a threshold, and none of the first reaches those of it.
    alone = both.rows.clone()
    alone[PATCHES:] = -both.rows[:PATCHES].mean(0) / both.rows[:PATCHES].mean(0).norm()
    both = Candidates(alone, torch.cat([both.best[:PATCHES], torch.full((PATCHES,), 1.1)]))
    assert (alone[:PATCHES] @ alone[PATCHES:].mT).max() < 0.2
    codes = rows(2 * PATCHES, 4, 1)
    together = hidden_positive_loss(codes, codes, both, None, None, PATCHES, OPTIONS)
    assert not together.agnostic[PATCHES:].any()
    assert together.agnostic[:PATCHES].any()
    # Weights of anchors are those of the first image by itself; only denominators see the second.
    own = codes[:PATCHES]
    first = Candidates(both.rows[:PATCHES], both.best[:PATCHES])
    sampled = torch.zeros(PATCHES, 2 * PATCHES, dtype=torch.bool)
    without = hidden_positive_loss(codes, codes, both, None, sampled, PATCHES, OPTIONS)
    expected = hidden_positive_loss(own, own, first, None, sampled[:, :PATCHES], PATCHES, OPTIONS)
    torch.testing.assert_close(without.loss, expected.loss)
    assert together.loss > without.loss > 0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_rows_are_finite(value: float) -> None:
    same = Candidates(torch.full((12, 5), value), torch.zeros(12))
    codes = torch.full((12, 4), value / 2, requires_grad=True)
    found = hidden_positive_loss(codes, codes, same, same, None, PATCHES, OPTIONS)
    found.loss.backward()
    assert found.loss.isfinite()
    assert codes.grad is not None
    assert codes.grad.isfinite().all()
    assert found.agnostic.eq(11 * value).all()


def test_smallest_temperature_is_finite() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(PATCHES, 1).requires_grad_()
    every = Candidates(opposite.detach(), torch.full((12,), -2.0))
    options = ContrastiveOptions(temperature=0.05, task_weight=0.0)
    found = hidden_positive_loss(opposite, opposite, every, None, None, PATCHES, options)
    found.loss.backward()
    assert found.loss.isfinite()
    assert opposite.grad is not None
    assert opposite.grad.isfinite().all()


def test_specific_positives_without_agnostic_ones_make_no_anchor() -> None:
    agnostic = kind(2, 3, best=0.5)
    plain, _ = contrast(2, agnostic)
    found, _ = contrast(2, agnostic, kind(2, 4, best=0.3))
    dropped = plain.agnostic == 0
    assert dropped.any()
    assert (found.specific[dropped] > 0).any()
    none = Candidates(agnostic.rows, torch.full_like(agnostic.best, 2.0))
    assert contrast(2, none, kind(2, 4, best=0.3))[0].loss == 0


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_block_size_changes_rounding_only(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    agnostic, specific = kind(7, 3, best=0.4), kind(7, 4, best=0.4)
    whole, grads = contrast(7, agnostic, specific, share)
    for limit in (1, 2 * PATCHES, 3 * PATCHES + 1):
        monkeypatch.setitem(contrastive._ROWS_AT_A_TIME, "cpu", limit)
        parts, part_grads = contrast(7, agnostic, specific, share)
        torch.testing.assert_close(parts, whole)
        torch.testing.assert_close(part_grads, grads)


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_masks_that_are_kept_change_nothing(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setitem(contrastive._ROWS_AT_A_TIME, "cpu", PATCHES)
    agnostic, specific = kind(7, 3, best=0.4), kind(7, 4, best=0.4)
    searched, search = list[object](), contrastive._hidden_positives

    def counted(*asked: Any) -> Tensor:
        searched.append(asked)
        return search(*asked)

    monkeypatch.setattr(contrastive, "_hidden_positives", counted)
    found = []
    for room in (0, 5 * 2 * PATCHES**2, 2**20):
        monkeypatch.setattr(contrastive, "_KEPT_BYTES", room)
        found.append((*contrast(7, agnostic, specific, share), len(searched)))
        searched.clear()
    (none, none_grads, twice), *others = found
    blocks = 7 * 8 // 2
    assert [twice, *(count for *_, count in others)] == [4 * blocks, 4 * blocks - 10, 2 * blocks]
    for kept, grads, _ in others:
        assert all(map(torch.equal, (*kept, *grads), (*none, *none_grads)))


@pytest.mark.parametrize("share", [0.02, 1.0])
def test_rounded_products_change_no_mask(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    images, dim = 4, 64
    agnostic, specific, codes, mixed = (rows(images * 49, dim, seed) for seed in range(4))
    first, second = (
        Candidates(one, best_match(one, rows(96, dim, 9))) for one in (agnostic, specific)
    )
    sampled = draw_denominators([*"abcd"], 49, share, "denominators", device=CPU)

    def found() -> tuple[Contrast, list[Tensor]]:
        own, local = (one.clone().requires_grad_() for one in (codes, mixed))
        result = hidden_positive_loss(own, local, first, second, sampled, 49, OPTIONS)
        return result, list(torch.autograd.grad(result.loss, (own, local)))

    plain, grads = found()
    monkeypatch.setattr(contrastive, "rounded_products", as_on_a_gpu)
    rounded, rounded_grads = found()
    # Positives are compared in float32: their numbers are the same.
    assert torch.equal(rounded.agnostic, plain.agnostic)
    assert torch.equal(rounded.specific, plain.specific)
    assert plain.agnostic.sum() > 100
    assert rounded.loss != plain.loss
    torch.testing.assert_close(rounded.loss, plain.loss, rtol=1e-4, atol=0)
    for one, other in zip(rounded_grads, grads, strict=True):
        assert (one - other).norm() < 1e-3 * other.norm()


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, Tensor):
                self.numbers = max(self.numbers, made.untyped_storage().size() // 4)
        return result


def test_no_tensor_holds_all_pairs() -> None:
    images, patches = 40, 64
    agnostic = Candidates(rows(images * patches, 8, 3), torch.full((images * patches,), 0.8))
    codes = rows(images * patches, 8, 1).requires_grad_()
    with Largest() as largest:
        hidden_positive_loss(
            codes, codes, agnostic, agnostic, None, patches, OPTIONS
        ).loss.backward()
    assert 0 < largest.numbers <= contrastive._ROWS_AT_A_TIME["cpu"] ** 2
    assert largest.numbers < (images * patches) ** 2 / 4


def test_best_match_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    points, pool = rows(10, 5, 0), rows(3, 5, 1)
    monkeypatch.setattr(contrastive, "_POOL_ROWS_AT_A_TIME", 4)
    torch.testing.assert_close(best_match(points, pool), (points @ pool.mT).max(1).values)


def test_denominators_are_keyed_by_image() -> None:
    whole = draw_denominators(["a", "b", "c"], 50, 0.02, 0, "step", device=CPU)
    other = draw_denominators(["c", "a"], 50, 0.02, 0, "step", device=CPU)
    assert whole is not None
    assert other is not None
    assert whole.shape == (50, 150)
    assert torch.equal(other, torch.cat([whole[:, 100:], whole[:, :50]], dim=1))
    assert 0.01 < whole.float().mean() < 0.03
    assert not torch.equal(whole[:, :50], whole[:, 50:100])
    again = draw_denominators(["a", "b", "c"], 50, 0.02, 1, "step", device=CPU)
    assert again is not None
    assert not torch.equal(whole, again)
    assert draw_denominators(["a"], 50, 1.0, device=CPU) is None


def test_equal_views_are_consistent() -> None:
    codes = rows(8, 4, 0).requires_grad_()
    loss = consistency_loss(codes, codes.detach())
    loss.backward()
    assert 0 < loss < 1e-5
    assert codes.grad is not None
    assert codes.grad.isfinite().all()
