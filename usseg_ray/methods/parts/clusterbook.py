"""The loss of CAUSE's clusterbook: soft modularity with one set of codes for all images.

CAUSE learns its clusterbook with it from backbone tokens, and its cluster probe from codes. As in
`ops.modularity`, tokens of one image are the nodes of a graph; but the parts are shared by all
images and there are thousands of them, so what counts here is to find the code that two tokens
agree on best without ever building the (K, N, N) tensor of the definition: tanh is taken of the
maximum instead of the maximum of tanhs, one tile of token pairs is looked at at a time, and of K
products only the maxima of short runs are kept until the best run is searched for its code.
"""

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable
from torch.nn.functional import normalize, pad

from usseg_ray.core.types import StepResult
from usseg_ray.methods.parts.concepts import nearest_codes, share_used
from usseg_ray.ops.draws import uniforms
from usseg_ray.ops.largest import argmax
from usseg_ray.ops.modularity import affinity, graph
from usseg_ray.ops.transfer import sent

_EPSILON = 1e-12
# Products at a time: what a core's cache holds, or enough to fill an accelerator.
_PRODUCTS = {"cpu": 2**19, "other": 2**26}


class Agreement(NamedTuple):
    """How much every pair of tokens agrees on a code; pairs (i, j) with i <= j, row by row.

    Attributes:
        first: (M,) i.
        second: (M,) j.
        product: (M,) max over k of C_ik C_jk.
        winner: (M,) the k of that maximum, the first one in a tie.
    """

    first: Int64[Tensor, "M"]
    second: Int64[Tensor, "M"]
    product: Float[Tensor, "M"]
    winner: Int64[Tensor, "M"]


class WindowSample(NamedTuple):
    """A random token of every square window of a grid, which stands for the window.

    Attributes:
        picks: (B, r, c) the place within each window, row by row, below `side` squared.
        side: Side of a window, tokens.

    Reference:
        CAUSE, official code, stochastic grid sampling.
    """

    picks: Int64[Tensor, "B r c"]
    side: int

    def pick(self, maps: Shaped[Tensor, "B C h w"]) -> Shaped[Tensor, "B C r c"]:
        """Keeps the picked tokens.

        Args:
            maps: (B, C, h, w), any map on the grid; what fills no window is left out.

        Returns:
            (B, C, r, c).
        """
        _, rows, columns = self.picks.shape
        picks = sent(self.picks, maps.device)
        down = torch.arange(rows, device=maps.device)[:, None] * self.side + picks // self.side
        right = torch.arange(columns, device=maps.device) * self.side + picks % self.side
        index = (down * maps.shape[3] + right).flatten(1)[:, None].expand(-1, maps.shape[1], -1)
        return maps.flatten(2).gather(2, index).view(*maps.shape[:2], rows, columns)


def draw_windows(
    ids: Sequence[str], grid: tuple[int, int], side: int, *key: int | str
) -> WindowSample:
    """Picks a token of every window at random.

    Args:
        ids: One name per image.
        grid: Height and width, tokens.
        side: Side of a window; where two do not fit along both sides of the grid, less.
        key: Keys the draw.

    Returns:
        The picks; those of an image depend on key and id alone.
    """
    side = max(1, min(side, *(extent // 2 for extent in grid)))
    draws = uniforms(ids, [extent // side for extent in grid], *key)
    return WindowSample((draws * side**2).long(), side)


def clusterbook_losses(
    tokens: Float[Tensor, "B N D"], codebook: Float[Tensor, "K D"], *, temperature: float = 0.1
) -> Float[Tensor, "B"]:
    """Computes minus the soft modularity that a shared set of codes reaches on every image.

    Memory beyond the cosines of tokens and codes is that of one image's N x N matrices.

    Args:
        tokens: (B, N, D), not normalised; no gradient flows to them.
        codebook: (K, D), not normalised.
        temperature: Agreement on a code is tanh of the product of cosines over this.

    Returns:
        (B,) losses, more than -1; 0 for an image without edges.

    Reference:
        CAUSE, arXiv 2310.07379, modularity of the clusterbook, as in the official code: no loops,
        the sum over pairs divided by the sum of all affinities.
    """
    rows = normalize(tokens.detach(), dim=2).flatten(0, 1)
    soft = (rows @ normalize(codebook, dim=1).mT).unflatten(0, tokens.shape[:2])
    losses: Tensor = _Losses.apply(soft, tokens.detach(), temperature)
    return losses


def clusterbook_step(
    maps: Float[Tensor, "B D h w"], codebook: Float[Tensor, "K D"], temperature: float
) -> StepResult:
    """Computes the loss of a step that learns the codes, or the centroids.

    Args:
        maps: (B, D, h, w), not normalised; no gradient flows to them.
        codebook: (K, D), not normalised.
        temperature: See `clusterbook_losses`.

    Returns:
        The mean loss; scalar `codes_used`, the share of the codes that some token is nearest to.
    """
    loss = clusterbook_losses(maps.flatten(2).mT, codebook, temperature=temperature).mean()
    used = share_used(nearest_codes(maps, codebook.detach()), len(codebook))
    return StepResult(loss, {"codes_used": used})


def best_agreement(positive: Float[Tensor, "N K"]) -> Agreement:
    """Finds for every pair of tokens the code that they agree on best.

    Args:
        positive: (N, K), positive parts of the cosines of one image's tokens and codes.

    Returns:
        Products and winners of all pairs, computed without a (K, N, N) tensor.
    """
    num_codes = positive.shape[1]
    length = 2 ** (isqrt(num_codes - 1).bit_length())
    # Padding with zeros at the end never wins: a tie of zeros goes to the first code.
    runs = pad(positive, (0, -num_codes % length)).unflatten(1, (-1, length))
    first, second = torch.triu_indices(len(positive), len(positive), device=positive.device)
    best_run = _best_runs(runs)[first, second]
    products, winners = [], []
    pairs = max(1, _budget(positive) // length)
    for i, j, run in zip(
        first.split(pairs), second.split(pairs), best_run.split(pairs), strict=True
    ):
        product, place = (runs[i, run] * runs[j, run]).max(1)
        products.append(product)
        winners.append(run * length + place)
    return Agreement(first, second, torch.cat(products), torch.cat(winners))


def _best_runs(runs: Float[Tensor, "N runs length"]) -> Int64[Tensor, "N N"]:
    """Finds the run of codes that holds each pair's best one; below the diagonal anything."""
    count = len(runs)
    side = max(1, isqrt(_budget(runs) // runs[0].numel()))
    best = torch.zeros((count, count), dtype=torch.int64, device=runs.device)
    for i in range(0, count, side):
        rows = runs[i : i + side, None]
        for j in range(i, count, side):
            products = rows * runs[None, j : j + side]
            best[i : i + side, j : j + side] = argmax(products.amax(3), 2)
    return best


def _budget(tensor: Tensor) -> int:
    return _PRODUCTS["cpu" if tensor.device.type == "cpu" else "other"]


def _image_loss(
    soft: Float[Tensor, "N K"], tokens: Float[Tensor, "N D"], temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "N K"]]:
    """Computes one image's loss and its derivative by `soft`."""
    positive = soft.clamp(min=0)
    pair = best_agreement(positive)
    edges = graph(affinity(tokens[None], keep_loops=False))
    # A pair stands for (i, j) and (j, i), which count and pull alike.
    times = 2.0 - (pair.first == pair.second).to(soft.dtype)
    weight = -times * edges.modularity[0][pair.first, pair.second]
    weight /= edges.two_m.clamp(min=_EPSILON)
    delta = (pair.product / temperature).tanh()
    # Cosines floored at 0 pass no gradient.
    slope = weight * (1 - delta.square()) / temperature * (pair.product > 0)
    gradient = torch.zeros_like(soft).view(-1)
    for own, other in ((pair.first, pair.second), (pair.second, pair.first)):
        pull = slope * positive[other, pair.winner]
        gradient.index_add_(0, own * soft.shape[1] + pair.winner, pull)
    return (weight * delta).sum(), gradient.view_as(soft)


class _Losses(torch.autograd.Function):
    """Takes each image's gradient right after its loss, so that no pair is kept."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        soft: Float[Tensor, "B N K"],
        tokens: Float[Tensor, "B N D"],
        temperature: float,
    ) -> Float[Tensor, "B"]:
        by_soft, losses = torch.empty_like(soft), []
        for image, rows in enumerate(tokens):
            loss, by_soft[image] = _image_loss(soft[image], rows, temperature)
            losses.append(loss)
        ctx.save_for_backward(by_soft)
        return torch.stack(losses)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: BackwardCFunction, grad: Float[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B N K"], None, None]:
        (by_soft,) = ctx.saved_tensors
        return grad[:, None, None] * by_soft, None, None
