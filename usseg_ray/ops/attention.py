"""Last-block attention, reduced to what is used of it: foreground, or weights of neighbours.

Backbones reduce attention here, so that its N x N maps never leave them. To one number a patch:
what a ViT looks at is rarely background, and ACSeg splits the regions of an image into foreground
and background by these numbers. To nine numbers a patch: HP mixes every code with those of the
neighbours that the patch looks at.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable
from torch.nn.functional import normalize, pad

from usseg_ray.ops.transfer import sent

_QUANTILES = (0.1, 0.9)


def cls_score(attention: Float[Tensor, "B heads T T"]) -> Float[Tensor, "B N"]:
    """Reads how much the CLS token looks at every patch.

    Args:
        attention: (B, heads, T, T), softmax over the last axis, CLS first, T = N + 1.

    Returns:
        (B, N), mean over heads.

    Reference:
        ACSeg, arXiv 2210.05944, background by self-attention; the paper's row and head reduction
        are not known, this is the usual reading of DINO maps.
    """
    return attention[:, :, 0, 1:].mean(1)


def minhead_score(attention: Float[Tensor, "B heads T T"]) -> Float[Tensor, "B N"]:
    """Reads how much all tokens look at every patch, by the head that looks least.

    Args:
        attention: (B, heads, T, T), softmax over the last axis, CLS first, T = N + 1.

    Returns:
        (B, N), minimum over heads, then sum over queries.

    Reference:
        The reading of ACSeg's background test in a re-implementation (Sooo66/ACSeg).
    """
    return attention.amin(1).sum(1)[:, 1:]


def two_means_split(scores: Float[Tensor, "B n"], used: Bool[Tensor, "B n"]) -> Bool[Tensor, "B n"]:
    """Splits each row's numbers into an upper and a lower group by exact 2-means in one dimension.

    Args:
        scores: (B, n), n >= 1.
        used: (B, n) the numbers that take part.

    Returns:
        (B, n) True in the upper group, which has all that take part if these are equal.
    """
    count = used.sum(1, keepdim=True)
    ordered = scores.double().masked_fill(~used, torch.inf).sort(1).values
    places = torch.arange(scores.shape[1], device=scores.device)
    costs = ordered.new_full(scores.shape, torch.inf)
    # Sorted numbers have contiguous groups, so trying every cut finds the best split.
    for cut in range(1, scores.shape[1]):
        upper = (places >= cut) & (places < count)
        cost = _spread(ordered, (places < cut) & (places < count)) + _spread(ordered, upper)
        costs[:, cut] = cost.where(cut < count[:, 0], torch.inf)
    return used & (scores >= ordered.gather(1, costs.min(1, keepdim=True).indices))


def _spread(numbers: Float[Tensor, "B n"], chosen: Bool[Tensor, "B n"]) -> Float[Tensor, "B"]:
    known = numbers.where(chosen, 0)
    means = known.sum(1, keepdim=True) / chosen.sum(1, keepdim=True).clamp(min=1)
    return (known - means).where(chosen, 0).square().sum(1)


def local_weights(
    logits: Float[Tensor, "B heads N N"] | Float[Tensor, "B N N"],
    height: int,
    width: int,
    sigma: float = 28.0,
) -> Float[Tensor, "B 9 h w"]:
    """Reads how much every patch looks at its 3x3 neighbourhood, itself included.

    Logits are averaged over heads, cut to the 10 % and 90 % quantiles of their row and turned into
    attention by a softmax over all patches. What lies below the row's mean counts as 0, the rest is
    multiplied by `sigma` and divided by the number of neighbours inside the grid.

    Args:
        logits: Attention before the softmax, without the CLS token; N = height * width. With or
            without an axis of heads.
        height: Rows of the grid.
        width: Columns of the grid.
        sigma: Scale of the weights; 28 in the official code, whatever the grid.

    Returns:
        (B, 9, height, width) weights, neighbours row by row from top left; 0 outside the grid. They
        do not add up to 1.

    Reference:
        HP (CVPR 2023), local hidden positives; official code.
    """
    neighbours, inside = _neighbourhood(height, width, logits.device)
    maps = []
    # One image at a time: the quantile sorts, which takes three times the memory of its input.
    for own in logits:
        attention = own.mean(0) if own.ndim == 3 else own
        maps.append(_above_mean(attention, neighbours) * inside / inside.sum(1, keepdim=True))
    weights: Tensor = sigma * torch.stack(maps).mT.unflatten(2, (height, width))
    return weights.contiguous()


def cosine_weights(
    tokens: Float[Tensor, "B D h w"], temperature: float
) -> Float[Tensor, "B 9 h w"]:
    """Weighs every patch's neighbours by token cosines instead of attention.

    For backbones without attention; not part of HP.

    Args:
        tokens: (B, D, h, w), not normalised; no gradient flows to them.
        temperature: Cosines over this take the place of attention logits.

    Returns:
        (B, 9, h, w) as `local_weights`.
    """
    rows = normalize(tokens.detach(), dim=1).flatten(2).mT
    # One image at a time, since all N x N cosines of a batch take gigabytes.
    weights = [local_weights((own @ own.mT / temperature)[None], *tokens.shape[2:]) for own in rows]
    return torch.cat(weights)


def propagate(
    codes: Float[Tensor, "B C h w"], weights: Float[Tensor, "B 9 h w"]
) -> Float[Tensor, "B C h w"]:
    """Mixes every code with those around it; the gradient spreads to them in the same proportions.

    Args:
        codes: (B, C, h, w).
        weights: (B, 9, h, w) from `local_weights`; no gradient flows to them.

    Returns:
        (B, C, h, w), the weighted sum over each 3x3 neighbourhood.

    Reference:
        HP (CVPR 2023), gradient propagation to local hidden positives.
    """
    mixed: Tensor = _Propagation.apply(codes, weights)
    return mixed


class _Propagation(torch.autograd.Function):
    """Nine shifted sums each way; autograd alone would keep a copy of the codes for every shift."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, codes: Float[Tensor, "B C h w"], weights: Float[Tensor, "B 9 h w"]
    ) -> Float[Tensor, "B C h w"]:
        ctx.save_for_backward(weights)
        height, width = codes.shape[2:]
        padded, mixed = pad(codes, (1, 1, 1, 1)), torch.zeros_like(codes)
        for neighbour in range(9):
            row, column = divmod(neighbour, 3)
            mixed.addcmul_(
                padded[:, :, row : row + height, column : column + width],
                weights[:, neighbour, None],
            )
        return mixed

    @staticmethod
    @once_differentiable
    def backward(
        ctx: BackwardCFunction, grad: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B C h w"], None]:
        (weights,) = ctx.saved_tensors
        height, width = grad.shape[2:]
        padded = grad.new_zeros((*grad.shape[:2], height + 2, width + 2))
        for neighbour in range(9):
            row, column = divmod(neighbour, 3)
            padded[:, :, row : row + height, column : column + width].addcmul_(
                grad, weights[:, neighbour, None]
            )
        return padded[:, :, 1:-1, 1:-1], None


def _neighbourhood(
    height: int, width: int, device: torch.device
) -> tuple[Int64[Tensor, "N 9"], Bool[Tensor, "N 9"]]:
    """Lists the patches around every patch, row by row; outside of the grid stands patch 0."""
    numbers = torch.arange(height * width, device=device).view(height, width)
    around = pad(numbers, (1, 1, 1, 1), value=-1).unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 9)
    return around.clamp(min=0), around >= 0


def _above_mean(logits: Float[Tensor, "N N"], chosen: Int64[Tensor, "N 9"]) -> Float[Tensor, "N 9"]:
    """Computes clipped softmax attention to chosen patches, 0 where it is below the row's mean."""
    shares = sent(torch.tensor(_QUANTILES, dtype=logits.dtype), logits.device)
    low, high = logits.quantile(shares, dim=1)[:, :, None]
    # The upper quantile is the largest logit left, so it keeps the exponentials from overflowing.
    clipped = logits.clamp(low, high) - high
    total = clipped.exp().sum(1, keepdim=True)
    attention = clipped.gather(1, chosen).exp() / total
    kept: Tensor = attention.where(attention * len(logits) >= 1, 0)
    return kept
