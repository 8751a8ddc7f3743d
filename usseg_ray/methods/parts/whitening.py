"""Whitening: directions in which tokens vary much are drawn in, and others are heard beside them.

Channels of one kind vary together and outvote the rest in a cosine. How far each direction is drawn
in is a power of its deviation over the training images; nothing else is learnt.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from usseg_ray.core.distributed import all_sum

_SMALLEST = 1e-3
"""Least deviation over the largest one; what varies less is no more than rounding."""
_EQUAL = 1e-12
"""Largest variance over the mean square of tokens, up to which they are all the same."""


class Whitening(nn.Module):
    """Takes the mean of all tokens off and divides each direction by a power of its deviation.

    Args:
        dim: Channels of a token.
        power: 0 leaves deviations as they are, 1 makes them all one.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, dim: int, power: float) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim))

    @torch.no_grad()
    def fit(self, maps: Iterable[Float[Tensor, "B D h w"]]) -> None:
        """Measures the tokens of all workers, which call it together.

        Where all tokens are the same, no direction is drawn in.

        Args:
            maps: Tokens of this worker's training images.
        """
        dim = len(self.mean)
        sums = torch.zeros(dim + 1, dim + 1, dtype=torch.float64, device=self.mean.device)
        for some in maps:
            rows = some.flatten(2).mT.flatten(0, 1).double()
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
            sums += rows.mT @ rows
        # One matrix holds the products of channels, their sums and the number of tokens.
        sums = all_sum(sums)
        means = sums / sums[-1, -1]
        mean = means[-1, :-1]
        values, vectors = torch.linalg.eigh(means[:-1, :-1] - mean.outer(mean))
        deviations = values.clamp(min=0).sqrt()
        if values[-1] <= _EQUAL * means[:-1, :-1].trace():
            deviations = torch.ones_like(deviations)
        scales = deviations.clamp(min=_SMALLEST * float(deviations[-1])) ** -self.power
        self.mean.copy_(mean)
        # Turned back, so that the sign of a direction does not matter.
        self.matrix.copy_(vectors * scales @ vectors.mT)

    def forward(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        """Whitens tokens, once they were measured."""
        centred = maps - self.mean[:, None, None]
        return torch.einsum("bdhw,de->behw", centred, self.matrix)
