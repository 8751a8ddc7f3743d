"""The cluster probe: label-free centroids of codes, learnt beside a method on detached codes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

_EPSILON = 1e-12


class ClusterProbe(nn.Module):
    """K centroids that follow the codes they are nearest to, by cosine.

    Args:
        num_clusters: K.
        dim: Channels of a code.
        generator: Draws the initial centroids; equal on all workers.

    Reference:
        STEGO (ICLR 2022), cluster probe; HP and CAUSE use it too.
    """

    def __init__(self, num_clusters: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.centroids = nn.Parameter(torch.randn(num_clusters, dim, generator=generator))

    def forward(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Computes the cosine of every code to every centroid.

        Args:
            codes: (B, C, h, w).

        Returns:
            (B, K, h, w) in [-1, 1].
        """
        return torch.einsum(
            "bchw,kc->bkhw", normalize(codes, dim=1), normalize(self.centroids, dim=1)
        )

    def projections(
        self, codes: Float[Tensor, "B C h w"], scale: float
    ) -> Float[Tensor, "B K h w"]:
        """Projects codes onto the directions of the centroids.

        Args:
            codes: (B, C, h, w) of any length.
            scale: Size of the result, which one number an image makes that of cosines times this.

        Returns:
            (B, K, h, w); linear in an image's codes but for that number.
        """
        length = codes.norm(dim=1).mean((1, 2)).clamp(min=_EPSILON)
        sizes = (scale / length)[:, None, None, None]
        directions = normalize(self.centroids, dim=1)
        projected: Tensor = sizes * torch.einsum("bchw,kc->bkhw", codes, directions)
        return projected

    def loss(
        self, codes: Float[Tensor, "B C h w"], alpha: float | None = None
    ) -> Float[Tensor, ""]:
        """Computes minus the mean cosine of codes to the centroids they belong to.

        Args:
            codes: (B, C, h, w); detach them, or the loss trains what made them.
            alpha: Codes belong to centroids by softmax of `alpha` times the cosine; wholly to the
                nearest if unset.

        Returns:
            Scalar in [-1, 1].
        """
        cosines: Tensor = self(codes)
        if alpha is None:
            return -cosines.max(1).values.mean()
        return -((alpha * cosines).softmax(1) * cosines).sum(1).mean()
