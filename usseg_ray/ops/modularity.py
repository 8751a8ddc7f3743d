"""Modularity of token graphs: what ACSeg maximises.

Patch tokens of one image are the nodes, positive cosines the edges; a good split into concepts has
many more edge weight inside its parts than their degrees alone would give. Everything here runs in
float32 or float64 with autocast off: the signal is a small difference of large sums, and lower
precision drowns it. The pair intensity never builds the (B, N, N, K) tensor of its definition.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable
from torch.nn.functional import normalize

_EPSILON = 1e-12
# What a core's cache holds, or enough to fill an accelerator.
_PAIRS_AT_A_TIME = {"cpu": 2**20, "other": 2**26}


class Graph(NamedTuple):
    """The modularity matrix of every image's token graph.

    Attributes:
        modularity: (B, N, N), affinity minus what the degrees alone explain.
        two_m: (B,), sum of all affinities (every edge twice, loops once).
    """

    modularity: Float[Tensor, "B N N"]
    two_m: Float[Tensor, "B"]


def cosine(
    tokens: Float[Tensor, "B N D"], concepts: Float[Tensor, "B K D"]
) -> Float[Tensor, "B N K"]:
    """Compares every token with every concept of its image.

    Args:
        tokens: (B, N, D), not normalised.
        concepts: (B, K, D), not normalised.

    Returns:
        (B, N, K) cosines in [-1, 1], at least float32; 0 for a zero vector.
    """
    return directions_cosine(directions(tokens), directions(concepts))


def directions(rows: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
    """Scales vectors to unit length, at least in float32; a zero vector stays."""
    wide = rows if rows.dtype == torch.float64 else rows.float()
    return normalize(wide, dim=2, eps=_EPSILON)


def directions_cosine(
    tokens: Float[Tensor, "B N D"], concepts: Float[Tensor, "B K D"]
) -> Float[Tensor, "B N K"]:
    """Computes `cosine` of vectors whose `directions` are at hand."""
    with _full_precision(tokens):
        return tokens @ concepts.mT


def affinity(tokens: Float[Tensor, "B N D"], *, keep_loops: bool = True) -> Float[Tensor, "B N N"]:
    """Weighs the edges between the tokens of an image.

    Args:
        tokens: (B, N, D), not normalised; no gradient flows to them.
        keep_loops: Whether a token is its own neighbour, with weight 1.

    Returns:
        (B, N, N) cosines with negatives set to 0, at least float32.

    Reference:
        ACSeg, arXiv 2210.05944, modularity loss. The paper does not speak of loops (kept here by
        default); CAUSE removes them.
    """
    with torch.no_grad():
        unit = directions(tokens)
        edges = directions_cosine(unit, unit).clamp_(min=0)
        if not keep_loops:
            edges.diagonal(dim1=1, dim2=2).zero_()
    return edges


def graph(edges: Float[Tensor, "B N N"], *, gamma: float = 1.0) -> Graph:
    """Takes the null model off a graph: W = A - gamma k k^T / 2m.

    Args:
        edges: (B, N, N), symmetric, not negative.
        gamma: Resolution: more than 1 favours smaller parts, 1 is the paper's.

    Returns:
        Modularity matrix and total weight.

    Reference:
        ACSeg, arXiv 2210.05944, modularity loss; gamma as in Reichardt and Bornholdt 2006.
    """
    with _full_precision(edges):
        degree = edges.sum(2)
        two_m = degree.sum(1)
        # An image without any edge has W = 0, and with the floor a loss of 0 instead of 0 / 0.
        share = degree / two_m.clamp(min=_EPSILON)[:, None]
        modularity = torch.baddbmm(edges, share[:, :, None], degree[:, None, :], alpha=-gamma)
    return Graph(modularity, two_m)


def pair_intensity(
    positive: Float[Tensor, "B N K"],
) -> tuple[Float[Tensor, "B N N"], UInt8[Tensor, "B N N"]]:
    """Says how much two tokens agree on a concept: delta_ij = max_c P_ic P_jc.

    The winners (one byte a pair) are all that the backward pass keeps.

    Args:
        positive: (B, N, K), positive parts of the cosines; at most 256 concepts.

    Returns:
        (B, N, N) intensity, and the concept that wins each pair (the first one in a tie).

    Reference:
        ACSeg, arXiv 2210.05944, modularity loss; the gradient flows through winners only.
    """
    delta, winner = _PairIntensity.apply(positive)
    return delta, winner


def modularity_loss(
    soft: Float[Tensor, "B N K"], token_graph: Graph, *, tanh_scale: float | None = None
) -> Float[Tensor, "B"]:
    """Computes minus the soft modularity of every image.

    Args:
        soft: (B, N, K), cosines of tokens and concepts.
        token_graph: The images' graphs.
        tanh_scale: Squash the intensity as tanh(delta / scale); `None` for the paper's loss.

    Returns:
        (B,) losses, more than -1.

    Reference:
        ACSeg, arXiv 2210.05944, modularity loss; `tanh_scale` is CAUSE's variant (0.1).
    """
    with _full_precision(soft):
        delta, _ = pair_intensity(soft.clamp(min=0))
        if tanh_scale is not None:
            delta = (delta / tanh_scale).tanh()
        total = (token_graph.modularity * delta).sum((1, 2))
        return -total / token_graph.two_m.clamp(min=_EPSILON)


def image_losses(
    tokens: Float[Tensor, "B N D"],
    soft: Float[Tensor, "B N K"],
    *,
    gamma: float = 1.0,
    keep_loops: bool = True,
    tanh_scale: float | None = None,
) -> Float[Tensor, "B"]:
    """Computes `modularity_loss` of a batch a few images at a time.

    Only the gradient by `soft` is kept for the backward pass, no matrix of token pairs.

    Args:
        tokens: (B, N, D), not normalised; no gradient flows to them.
        soft: (B, N, K), cosines of tokens and concepts.
        gamma: As in `graph`.
        keep_loops: As in `affinity`.
        tanh_scale: As in `modularity_loss`.

    Returns:
        (B,) losses.
    """

    def loss_of(tokens: Tensor, soft: Tensor) -> Tensor:
        edges = affinity(tokens, keep_loops=keep_loops)
        return modularity_loss(soft, graph(edges, gamma=gamma), tanh_scale=tanh_scale)

    losses: Tensor = _ImageLosses.apply(soft, tokens, loss_of)
    return losses


def hard_modularity(labels: Int64[Tensor, "B N"], token_graph: Graph) -> Float[Tensor, "B"]:
    """Computes the classical modularity of a partition.

    Args:
        labels: (B, N), the part of every token.
        token_graph: The images' graphs.

    Returns:
        (B,) modularity, less than 1.

    Reference:
        Newman, Modularity and community structure in networks, 2006.
    """
    same = labels[:, :, None] == labels[:, None, :]
    inside = (token_graph.modularity * same).sum((1, 2))
    return inside / token_graph.two_m.clamp(min=_EPSILON)


@contextmanager
def _full_precision(tensor: Tensor) -> Iterator[None]:
    with torch.autocast(tensor.device.type, enabled=False):
        yield


class _ImageLosses(torch.autograd.Function):
    """Takes each image's gradient right after its loss, while its matrices are at hand."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        soft: Float[Tensor, "B N K"],
        tokens: Float[Tensor, "B N D"],
        loss_of: Callable[[Tensor, Tensor], Tensor],
    ) -> Float[Tensor, "B"]:
        pairs = _PAIRS_AT_A_TIME["cpu" if soft.device.type == "cpu" else "other"]
        images = max(1, pairs // soft.shape[1] ** 2)
        losses, grads = [], []
        for some_tokens, some in zip(tokens.split(images), soft.split(images), strict=True):
            leaf = some.detach().requires_grad_()
            with torch.enable_grad():
                loss = loss_of(some_tokens, leaf)
                grads += torch.autograd.grad(loss.sum(), leaf)
            losses.append(loss.detach())
        ctx.save_for_backward(torch.cat(grads))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: BackwardCFunction, grad: Float[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B N K"], None, None]:
        (by_soft,) = ctx.saved_tensors
        return grad[:, None, None] * by_soft, None, None


class _PairIntensity(torch.autograd.Function):
    """Running maximum over concepts with its closed-form gradient."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, positive: Float[Tensor, "B N K"]
    ) -> tuple[Float[Tensor, "B N N"], UInt8[Tensor, "B N N"]]:
        first, *others = positive.mT.contiguous().unbind(1)
        delta = first[:, :, None] * first[:, None, :]
        winner = torch.zeros_like(delta, dtype=torch.uint8)
        for concept, column in enumerate(others, 1):
            product = column[:, :, None] * column[:, None, :]
            # Whichever was larger last has the largest number; a masked write takes much longer.
            larger = (product > delta).view(torch.uint8)
            torch.maximum(winner, larger.mul_(concept), out=winner)
            torch.maximum(delta, product, out=delta)
        ctx.save_for_backward(positive, winner)
        ctx.mark_non_differentiable(winner)
        return delta, winner

    @staticmethod
    @once_differentiable
    def backward(
        ctx: BackwardCFunction, grad: Float[Tensor, "B N N"], _: Tensor
    ) -> Float[Tensor, "B N K"]:
        positive, winner = cast("tuple[Tensor, Tensor]", ctx.saved_tensors)
        # A CPU compares many numbers at once where the result is a number, too, and not a bool.
        winners, won, columns = winner.to(grad.dtype), torch.empty_like(grad), []
        for concept in range(positive.shape[2]):
            column = positive[:, :, concept, None]
            torch.eq(winners, concept, out=won).mul_(grad)
            columns.append(won @ column + won.mT @ column)
        return torch.cat(columns, dim=2)
