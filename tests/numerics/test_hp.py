"""HP's loss against vectors of its official code, and its kernel against loops and dense autograd.

Tolerances are those that the vectors' notes suggest (`tests.numerics.hp`). The contrastive loss is
compared with the official text run on float32 masks (`fp32mask`) and with the float64 equation; the
shipped float16 masks round lambda and counts, so `*_official` arrays are only near (1e-3).
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.numerics.hp import Golden, Vectors, close, close_gradient, leaf
from usseg_ray.methods.parts import contrastive
from usseg_ray.methods.parts.contrastive import (
    Candidates,
    Contrast,
    ContrastiveOptions,
    best_match,
    consistency_loss,
    hidden_positive_loss,
)
from usseg_ray.settings.hp import Weighting


def candidates(vectors: Vectors, rows: str, pool: str) -> Candidates:
    unit = torch.as_tensor(vectors[rows])
    return Candidates(unit, best_match(unit, torch.as_tensor(vectors[pool])))


def golden_contrast(vectors: Vectors, tag: str, codes: Tensor, mixed: Tensor) -> Contrast:
    """Computes the loss in one of the recorded settings."""
    tau, rho, weight, reweighting, version = vectors[f"{tag}_hyper_tau_rho_lambda_reweight_version"]
    options = ContrastiveOptions(
        float(tau), float(weight), bool(reweighting), "joint" if version == 1 else "separate"
    )
    return hidden_positive_loss(
        codes,
        mixed,
        candidates(vectors, "f", "pool_ag"),
        candidates(vectors, "s_pr", "pool_sp") if weight > 0 else None,
        torch.as_tensor(vectors["uniform"]) < float(rho) if rho < 1 else None,
        int(vectors["spatial_size"]) ** 2,
        options,
    )


def test_threshold_is_the_best_match_in_the_pool(golden: Golden) -> None:
    vectors = golden("hp/hp_supcon_pools.npz")
    close(candidates(vectors, "f", "pool_ag").best, vectors["R_ag"])
    close(candidates(vectors, "s_pr", "pool_sp").best, vectors["R_sp"])


def test_positives_of_both_kinds(golden: Golden) -> None:
    vectors = golden("hp/hp_supcon_pools.npz")
    codes = torch.as_tensor(vectors["z"])
    contrast = golden_contrast(vectors, "b", codes, codes)
    np.testing.assert_array_equal(contrast.agnostic.numpy(), vectors["mask_ag_derived"].sum(1))
    np.testing.assert_array_equal(contrast.specific.numpy(), vectors["mask_sp_derived"].sum(1))
    dropped = int((contrast.agnostic == 0).sum())
    assert dropped == int(vectors["n_anchors_without_ag_positive"]) > 0


@pytest.mark.parametrize("tag", ["a", "b", "c", "d", "e"])
def test_contrastive_loss_and_gradients(golden: Golden, tag: str) -> None:
    vectors = golden("hp/hp_supcon_pools.npz")
    codes, mixed = leaf(vectors["z"]), leaf(vectors["z_mix"])
    loss = golden_contrast(vectors, tag, codes, mixed).loss
    close(loss, vectors[f"{tag}_loss_fp32mask"])
    close(loss, vectors[f"{tag}_loss_equation_f64"])
    close(loss, vectors[f"{tag}_loss_official"], 1e-3)
    loss.backward()
    for actual, name in ((codes, "grad_z"), (mixed, "grad_zmix")):
        close_gradient(actual.grad, vectors[f"{tag}_{name}_fp32mask"])
        close_gradient(actual.grad, vectors[f"{tag}_{name}_official"], 1e-3)


@pytest.mark.parametrize("tag", ["f", "g"])
def test_separate_weighting_with_the_official_slip(golden: Golden, tag: str) -> None:
    """The official version 2 reads the unmixed codes in its local term, so they are given twice."""
    vectors = golden("hp/hp_supcon_pools.npz")
    codes = leaf(vectors["z"])
    loss = golden_contrast(vectors, tag, codes, codes).loss
    close(loss, vectors[f"{tag}_loss_fp32mask"])
    close(loss, vectors[f"{tag}_loss_equation_f64"])
    close(loss, vectors[f"{tag}_loss_official"], 1e-3)
    loss.backward()
    close_gradient(codes.grad, vectors[f"{tag}_grad_z_fp32mask"])
    close_gradient(codes.grad, vectors[f"{tag}_grad_z_official"], 1e-3)


class Problem:
    """A random batch in float64, whose patches come in groups so that images share positives."""

    def __init__(self, images: int, patches: int, seed: int = 0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.images, self.patches = images, patches
        groups = torch.randint(0, 3, (images * patches,), generator=self.random)
        self.agnostic, self.specific = self.kind(groups, 6), self.kind(groups, 5)
        uniform = torch.rand(patches, images * patches, generator=self.random)
        self.sampled = uniform < 0.3

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.random)

    def kind(self, groups: Tensor, dim: int) -> Candidates:
        centres = self.draw(3, dim)
        rows = normalize(centres[groups] + 0.5 * self.draw(len(groups), dim), dim=1)
        pool = normalize(centres + 0.5 * self.draw(3, dim), dim=1)
        return Candidates(rows, best_match(rows, pool))

    def codes(self) -> Tensor:
        return normalize(self.draw(self.images * self.patches, 4), dim=1).requires_grad_()


def naive_loss(
    problem: Problem,
    codes: Tensor,
    sampled: Tensor | None,
    options: ContrastiveOptions,
) -> Tensor:
    """One of the two terms, by its definition: loops over images, anchors and partners."""
    size, tau = len(codes), options.temperature

    def positive(kind: Candidates, i: int, j: int) -> bool:
        cosine = float(kind.rows[i] @ kind.rows[j])
        return i != j and (cosine > float(kind.best[i]) or cosine > float(kind.best[j]))

    def anchor(i: int, weights: list[float]) -> Tensor:
        row = i % problem.patches
        members = [
            k
            for k in range(size)
            if k != i
            and (positive(problem.agnostic, i, k) or sampled is None or bool(sampled[row, k]))
        ]
        logits = codes @ codes[i] / tau
        log_sum = torch.logsumexp(logits[members], 0)
        return sum(
            (w * (logits[j] - log_sum) for j, w in enumerate(weights) if w), logits.new_zeros(())
        )

    def term(weight: Callable[[int, int], float], counts: Callable[[int], bool]) -> Tensor:
        losses = []
        for image in range(problem.images):
            own = range(image * problem.patches, (image + 1) * problem.patches)
            rows = {i: [weight(i, j) for j in range(size)] for i in own}
            kept = [i for i in own if counts(i) and sum(rows[i]) > 0]
            if not kept:
                continue
            totals = {i: sum(rows[i]) for i in kept}
            mean = sum(totals.values()) / len(kept)
            shares = [totals[i] / mean if options.reweighting else 1.0 for i in kept]
            parts = [
                share * anchor(i, rows[i]) / totals[i]
                for i, share in zip(kept, shares, strict=True)
            ]
            losses.append(-(tau / 0.07) * torch.stack(parts).mean())
        return torch.stack(losses).mean()

    def agnostic(i: int, j: int) -> float:
        return float(positive(problem.agnostic, i, j))

    def specific(i: int, j: int) -> float:
        return options.task_weight * float(positive(problem.specific, i, j))

    def has_agnostic(i: int) -> bool:
        return any(agnostic(i, j) for j in range(size))

    if options.weighting == "joint":
        return term(lambda i, j: agnostic(i, j) + specific(i, j), has_agnostic)
    unweighted = term(lambda i, j: float(positive(problem.specific, i, j)), lambda _: True)
    return term(agnostic, lambda _: True) + options.task_weight * unweighted


@pytest.mark.parametrize("reweighting", [True, False], ids=["reweighted", "even"])
@pytest.mark.parametrize("weighting", ["joint", "separate"])
@pytest.mark.parametrize("share", ["some", "all"])
def test_loss_and_gradient_equal_loops_over_pairs(
    monkeypatch: pytest.MonkeyPatch, share: str, weighting: Weighting, reweighting: bool
) -> None:
    # Two images a block and an odd image, so that squares, rectangles and a short block occur.
    monkeypatch.setitem(contrastive._ROWS_AT_A_TIME, "cpu", 12)
    problem = Problem(images=5, patches=6)
    sampled = problem.sampled if share == "some" else None
    options = ContrastiveOptions(0.5, 0.3, reweighting, weighting)
    codes, mixed = problem.codes(), problem.codes()
    contrast = hidden_positive_loss(
        codes, mixed, problem.agnostic, problem.specific, sampled, problem.patches, options
    )
    naive = (
        naive_loss(problem, codes, sampled, options) + naive_loss(problem, mixed, sampled, options)
    ) / 2
    torch.testing.assert_close(contrast.loss, naive, rtol=1e-12, atol=0)
    fast = torch.autograd.grad(contrast.loss, (codes, mixed))
    slow = torch.autograd.grad(naive, (codes, mixed))
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)


def test_task_specific_positives_of_weight_zero_change_nothing() -> None:
    problem = Problem(images=3, patches=8, seed=1)
    codes, mixed = problem.codes(), problem.codes()
    losses = [
        hidden_positive_loss(
            codes, mixed, problem.agnostic, kind, problem.sampled, 8, ContrastiveOptions(0.8, 0.0)
        ).loss
        for kind in (problem.specific, None)
    ]
    assert torch.equal(losses[0], losses[1])


def test_consistency(golden: Golden) -> None:
    vectors = golden("hp/hp_consistency.npz")
    codes, others = leaf(vectors["z"]), leaf(vectors["z_aug"])
    loss = consistency_loss(codes, others)
    close(loss, vectors["loss"])
    loss.backward()
    close_gradient(codes.grad, vectors["grad_z"])
    close_gradient(others.grad, vectors["grad_z_aug"])
