"""Contrast with hidden positives: every patch of a batch against every other, without N x N memory.

HP's two losses pass here. A patch of frozen features is a *hidden positive* of another if the two
are more alike than either is to its best match in a pool of reference patches. All pairs of a batch
are compared, 2.5 thousand million at 64 images of 28x28: block by block, once for the sums of each
anchor's row and once for the gradient; between the two a bound of masks is kept. Each block of
pairs (i, j) also serves (j, i): similarities and masks of positives are symmetric, and the two
halves of the gradient add up before they are multiplied by the codes. Autocast is off, as similar
numbers are compared; only products behind logits and gradients may be rounded (`ops.products`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pairwise_distance

from usseg_ray.ops.draws import chances
from usseg_ray.ops.products import rounded_products
from usseg_ray.ops.transfer import sent
from usseg_ray.settings.hp import Weighting

_ROWS_AT_A_TIME = {"cpu": 512, "cuda": 4096}
_POOL_ROWS_AT_A_TIME = 4096
_KEPT_BYTES = 2**29
"""Of masks, which are as dear to find as logits: all of 16 images of 28x28, a fifth of 64."""
_BASE_TEMPERATURE = 0.07


class Candidates(NamedTuple):
    """Rows in which hidden positives are looked for.

    Attributes:
        rows: (N, D), unit norm.
        best: (N,) each row's largest similarity to a reference pool, see `best_match`.
    """

    rows: Float[Tensor, "N D"]
    best: Float[Tensor, "N"]


@dataclass(frozen=True)
class ContrastiveOptions:
    """What the loss is made of, besides its rows.

    Attributes:
        temperature: tau, above 0.05 so that exponentials do not vanish in float32.
        task_weight: lambda, the weight of task-specific positives.
        reweighting: Whether anchors with more positives weigh more within their image.
        weighting: See `Weighting`.
    """

    temperature: float
    task_weight: float
    reweighting: bool = True
    weighting: Weighting = "joint"


class Contrast(NamedTuple):
    """The loss of a batch and how many positives it found.

    Attributes:
        loss: Scalar.
        agnostic: (N,) task-agnostic positives of every anchor.
        specific: (N,) task-specific positives of every anchor; 0 where they were not looked for.
    """

    loss: Float[Tensor, ""]
    agnostic: Float[Tensor, "N"]
    specific: Float[Tensor, "N"]

    def scalars(self) -> dict[str, Tensor]:
        """Lists what is logged: the loss, mean numbers of positives, and the share of anchors."""
        return {
            "contrastive": self.loss.detach(),
            "agnostic_positives": self.agnostic.mean(),
            "specific_positives": self.specific.mean(),
            "anchors": (self.agnostic > 0).float().mean(),
        }


# Before the loss: what positives are measured against, and pairs that join by chance.


def best_match(rows: Float[Tensor, "N D"], pool: Float[Tensor, "P D"]) -> Float[Tensor, "N"]:
    """Finds every row's largest similarity to a reference pool.

    Args:
        rows: (N, D), unit norm.
        pool: (P, D), unit norm.

    Returns:
        (N,) cosines.
    """
    with torch.autocast(rows.device.type, enabled=False):
        return torch.cat([(some @ pool.mT).amax(1) for some in rows.split(_POOL_ROWS_AT_A_TIME)])


def draw_denominators(
    ids: Sequence[str], patches: int, share: float, *key: int | str, device: torch.device
) -> Bool[Tensor, "n N"] | None:
    """Draws the pairs that join the denominators by chance.

    Args:
        ids: One name per image.
        patches: n, the patches of an image.
        share: Probability of a pair.
        key: What they are for.
        device: Where to draw; the same pairs on every device.

    Returns:
        (n, N) as `hidden_positive_loss` takes it; `None` if the share is 1. The columns of an
        image depend on key and id alone.
    """
    if share == 1:
        return None
    return chances(ids, (patches, patches), share, *key, device=device).movedim(0, 1).flatten(1)


# The losses of a step.


def hidden_positive_loss(
    codes: Float[Tensor, "N C"],
    mixed: Float[Tensor, "N C"],
    agnostic: Candidates,
    specific: Candidates | None,
    sampled: Bool[Tensor, "n N"] | None,
    patches: int,
    options: ContrastiveOptions,
) -> Contrast:
    """Computes the contrastive loss of projected codes and of their local mixtures.

    Rows are the patches of images of n patches, in order. Pair (i, j), i != j, is a task-agnostic
    positive if the cosine of its candidates exceeds the `best` of one of them, and likewise
    task-specific. It is in the denominator of anchor i if it is task-agnostic or sampled. Anchors
    without a task-agnostic positive do not count, and images without a counting anchor are left out
    of the mean, where the official code gives NaN; a batch of such images has loss 0.

    Args:
        codes: (N, C) z, unit norm.
        mixed: (N, C) z of the locally mixed codes, unit norm.
        agnostic: Frozen features and their best matches; no gradient.
        specific: The teacher's codes and their best matches; `None` where they weigh nothing.
        sampled: (n, N) pairs to put into denominators by chance: row = patch within its image,
            shared by all images, column = j; `None` for all pairs.
        patches: n, the patches of an image.
        options: The rest.

    Returns:
        The loss, with gradient to both kinds of codes, and the numbers of positives.

    Reference:
        HP (CVPR 2023), global and local hidden positives; factor tau / 0.07 as in the official
        code. With `separate`, its unused version 2, whose local term reads the unmixed codes by
        mistake: here it reads the mixed ones.
    """
    kinds = [agnostic] if specific is None else [agnostic, specific]
    with torch.autocast(codes.device.type, enabled=False):
        pairs = _Pairs(kinds, sampled, patches)
        loss: Tensor
        counts: Tensor
        loss, counts = _HiddenPositiveLoss.apply(codes, mixed, pairs, options)
    none = torch.zeros_like(counts[0])
    return Contrast(loss, counts[0], none if specific is None else counts[1])


def consistency_loss(
    codes: Float[Tensor, "N C"], others: Float[Tensor, "N C"]
) -> Float[Tensor, ""]:
    """Computes the mean Euclidean distance between codes of the same patches in two views.

    Args:
        codes: (N, C), unit norm.
        others: (N, C) of the other view, unit norm.

    Returns:
        Scalar, with gradient to both; 1e-6 is added to every difference, so that equal codes have
        one too.

    Reference:
        HP (CVPR 2023), consistency loss; not squared, as in the official code.
    """
    return pairwise_distance(codes, others, eps=1e-6).mean()


# The pairs of a batch: blocks on and above the diagonal, each of which serves (j, i) too.


class _Block(NamedTuple):
    """Pairs of rows i of one slice and j of another; in a square, those with i < j.

    Masks are 0 or 1 in the rows' type, since products with bools are several times slower.

    Attributes:
        first: Rows i.
        second: Rows j.
        positives: Whether (i, j) is a positive, one mask a kind; the same for (j, i).
        forth: Whether j is in the denominator of i.
        back: Whether i is in the denominator of j.
    """

    first: slice
    second: slice
    positives: list[Float[Tensor, "I J"]]
    forth: Float[Tensor, "I J"]
    back: Float[Tensor, "I J"]


class _Pairs:
    """Walks over all pairs of rows, in blocks of whole images; the second walk knows some masks."""

    def __init__(
        self, kinds: list[Candidates], sampled: Bool[Tensor, "n N"] | None, patches: int
    ) -> None:
        self.kinds = kinds
        self.sampled = sampled
        self.sampled_back = None if sampled is None else sampled.mT.contiguous()
        self.patches = patches
        rows, device = len(kinds[0].rows), kinds[0].rows.device
        images = max(1, _ROWS_AT_A_TIME[device.type] // self.patches)
        starts = range(0, rows, images * self.patches)
        self.slices = [slice(start, min(start + starts.step, rows)) for start in starts]
        self._kept = dict[tuple[int, int], list[Bool[Tensor, "I J"]]]()
        self._room = _KEPT_BYTES

    def __iter__(self) -> Iterator[_Block]:
        for index, first in enumerate(self.slices):
            for second in self.slices[index:]:
                yield self._block(first, second)

    def _block(self, first: slice, second: slice) -> _Block:
        positives = [mask.to(self.kinds[0].rows.dtype) for mask in self._positives(first, second)]
        forth, back = self._denominators(first, second, positives[0])
        if first == second:
            # Each pair of a square would be seen twice otherwise, and each row with itself.
            for mask in (*positives, forth, back):
                mask.triu_(1)
        return _Block(first, second, positives, forth, back)

    def _positives(self, first: slice, second: slice) -> list[Bool[Tensor, "I J"]]:
        """Finds a block's positives once, or twice where there is no room for them."""
        place = first.start, second.start
        if place in self._kept:
            return self._kept.pop(place)
        found = [_hidden_positives(kind, first, second) for kind in self.kinds]
        if (size := sum(mask.nbytes for mask in found)) <= self._room:
            self._kept[place] = found
            self._room -= size
        return found

    def _denominators(
        self, first: slice, second: slice, positives: Float[Tensor, "I J"]
    ) -> tuple[Float[Tensor, "I J"], Float[Tensor, "I J"]]:
        if self.sampled is None or self.sampled_back is None:
            return torch.ones_like(positives), torch.ones_like(positives)
        forth = self.sampled[:, second].to(positives.dtype)
        back = self.sampled_back[first].to(positives.dtype)
        forth = torch.maximum(positives.unflatten(0, (-1, self.patches)), forth).flatten(0, 1)
        back = torch.maximum(positives.unflatten(1, (-1, self.patches)), back[:, None]).flatten(1)
        return forth, back


# The arithmetic of a block.


def _hidden_positives(kind: Candidates, first: slice, second: slice) -> Bool[Tensor, "I J"]:
    """Marks pairs above one of their thresholds, that is above the lower one."""
    thresholds = torch.minimum(kind.best[first, None], kind.best[None, second])
    return kind.rows[first] @ kind.rows[second].mT > thresholds


def _logits(rows: Float[Tensor, "N C"], block: _Block, temperature: float) -> Float[Tensor, "I J"]:
    """Computes cosine / tau, less its value for equal rows, the largest that there is."""
    shift = rows.new_full((1, 1), -1 / temperature)
    with rounded_products(rows.device):
        logits: Tensor = torch.addmm(
            shift, rows[block.first], rows[block.second].mT, alpha=1 / temperature
        )
    return logits


# The loss over all blocks; its gradient walks them again, so that none is kept.


class _HiddenPositiveLoss(torch.autograd.Function):
    """Two walks over the pairs: sums of rows for the loss, then the gradient by the closed form.

    With w_ij the weight of a positive, S_i its sum over j, U_ij the denominator's mask and p_ij the
    masked softmax of anchor i, the gradient by logit ij is w_ij - S_i U_ij p_ij, up to scale.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        codes: Float[Tensor, "N C"],
        mixed: Float[Tensor, "N C"],
        pairs: _Pairs,
        options: ContrastiveOptions,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "kinds N"]]:
        # First walk: how many positives each anchor has, their logits' sum, and its denominators.
        counts, logits = (codes.new_zeros(len(pairs.kinds), len(codes)) for _ in range(2))
        denominators = codes.new_zeros(2, len(codes))
        for block in pairs:
            both = [_logits(rows, block, options.temperature) for rows in (codes, mixed)]
            added = both[0] + both[1]
            for kind, mask in enumerate(block.positives):
                _add_sums(counts[kind], block, mask, mask)
                mask_logits = mask * added
                _add_sums(logits[kind], block, mask_logits, mask_logits)
            for side, exponent in enumerate(both):
                exponent.exp_()
                _add_sums(denominators[side], block, block.forth * exponent, block.back * exponent)
        # Weights need the whole image's counts, so they come after the walk.
        weights = _weights(counts, denominators[0] > 0, pairs.patches, options)
        # Anchors that do not count may have an empty denominator.
        denominators.clamp_(min=torch.finfo(codes.dtype).tiny)
        mass = (weights * counts).sum(0)
        total = (weights * logits).sum() - (mass * denominators.log()).sum()
        # For the second walk, rows and one number an anchor are enough.
        ctx.save_for_backward(codes, mixed, weights, mass / denominators)
        ctx.pairs, ctx.temperature = pairs, options.temperature
        ctx.mark_non_differentiable(counts)
        return -options.temperature / (2 * _BASE_TEMPERATURE) * total, counts

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        grad: Float[Tensor, ""],
        _: Tensor,
    ) -> tuple[Float[Tensor, "N C"], Float[Tensor, "N C"], None, None]:
        codes, mixed, weights, pushes = ctx.saved_tensors
        grads = torch.zeros_like(codes), torch.zeros_like(mixed)
        for block in ctx.pairs:
            # Towards positives, by either anchor of a pair.
            pull = sum(
                mask * _both_ways(weight, block)
                for mask, weight in zip(block.positives, weights, strict=True)
            )
            for rows, push, target in zip((codes, mixed), pushes, grads, strict=True):
                # Away from the denominators, by the softmax of either anchor.
                by_logit = _logits(rows, block, ctx.temperature).exp_()
                by_logit *= block.forth * push[block.first, None] + block.back * push[block.second]
                by_logit -= pull
                # The block's two halves: rows i are moved by rows j, and rows j by rows i.
                with rounded_products(rows.device):
                    target[block.first].addmm_(by_logit, rows[block.second])
                    target[block.second].addmm_(by_logit.mT, rows[block.first])
        scale = grad / (2 * _BASE_TEMPERATURE)
        return grads[0] * scale, grads[1] * scale, None, None


def _both_ways(weight: Float[Tensor, "N"], block: _Block) -> Float[Tensor, "I J"]:
    return weight[block.first, None] + weight[None, block.second]


def _add_sums(
    target: Float[Tensor, "N"],
    block: _Block,
    forth: Float[Tensor, "I J"],
    back: Float[Tensor, "I J"],
) -> None:
    """Adds rows of (i, j) to anchors i and columns of (j, i) to anchors j."""
    target[block.first] += forth.sum(1)
    target[block.second] += back.sum(0)


def _weights(
    counts: Float[Tensor, "kinds N"],
    usable: Bool[Tensor, "N"],
    patches: int,
    options: ContrastiveOptions,
) -> Float[Tensor, "kinds N"]:
    """Computes the weight of every anchor's positives in the loss, 0 for anchors that do not count.

    Times its total, an anchor weighs as one of its image's anchors (`reweighting` off) or by its
    share of all positives of the image (on: then the total cancels against the mean's divisor).
    """
    # Which anchors count, and how many positives they have of both kinds.
    each = torch.tensor([1.0, options.task_weight], dtype=counts.dtype)
    kinds = sent(each, counts.device)[: len(counts), None]
    if options.weighting == "joint":
        totals = (kinds * counts).sum(0, keepdim=True)
        counting = (counts[:1] > 0) & usable
    else:
        totals, counting = counts, (counts > 0) & usable
    # Image by image: anchors share their image's weight, images share the loss.
    totals = totals.unflatten(1, (-1, patches))
    kept = counting.unflatten(1, (-1, patches)).to(counts.dtype)
    anchors = kept.sum(2, keepdim=True)
    images = (anchors > 0).sum(1, keepdim=True)
    share = (totals * kept).sum(2, keepdim=True) if options.reweighting else totals * anchors
    weights: Tensor = kinds * (kept / (share * images).clamp(min=1)).flatten(1)
    return weights
