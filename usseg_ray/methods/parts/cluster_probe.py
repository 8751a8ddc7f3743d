"""The cluster probe: label-free centroids of codes, learnt beside a method on detached codes."""

from collections.abc import Callable, Mapping
from functools import partial

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
        both: Whether k-means fills a second set of centroids; see `take`.

    Reference:
        STEGO (ICLR 2022), cluster probe; HP and CAUSE use it too.
    """

    def __init__(
        self, num_clusters: int, dim: int, generator: torch.Generator, *, both: bool = False
    ) -> None:
        super().__init__()
        self.centroids = nn.Parameter(torch.randn(num_clusters, dim, generator=generator))
        self.both = both
        if both:
            self.grouped = nn.Buffer(torch.zeros(num_clusters, dim))
            self.takes_grouped = nn.Buffer(torch.tensor(data=False))

    def kinds(self, learnt: str) -> Mapping[str, Callable[[], None]]:
        """Names both sets of centroids, with what takes each; nothing where it has one set."""
        if not self.both:
            return {}
        return {"kmeans": partial(self.take, grouped=True), learnt: partial(self.take)}

    def take(self, *, grouped: bool = False) -> None:
        """Has one of both sets of centroids score from now on."""
        self.takes_grouped.fill_(grouped)

    @torch.no_grad()
    def group(self, centroids: Float[Tensor, "K C"]) -> None:
        """Takes centroids of k-means, where it has both beside the learnt ones; they score."""
        if not self.both:
            self.centroids.copy_(centroids)
            return
        self.grouped.copy_(centroids)
        self.take(grouped=True)

    def forward(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Computes the cosine of every code to every centroid that scores.

        Args:
            codes: (B, C, h, w).

        Returns:
            (B, K, h, w) in [-1, 1].
        """
        return _cosines(codes, self.scoring)

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
        directions = normalize(self.scoring, dim=1)
        projected: Tensor = sizes * torch.einsum("bchw,kc->bkhw", codes, directions)
        return projected

    def loss(
        self, codes: Float[Tensor, "B C h w"], alpha: float | None = None
    ) -> Float[Tensor, ""]:
        """Computes minus the mean cosine of codes to the learnt centroids they belong to.

        Args:
            codes: (B, C, h, w); detach them, or the loss trains what made them.
            alpha: Codes belong to centroids by softmax of `alpha` times the cosine; wholly to the
                nearest if unset.

        Returns:
            Scalar in [-1, 1].
        """
        cosines = _cosines(codes, self.centroids)
        if alpha is None:
            return -cosines.max(1).values.mean()
        return -((alpha * cosines).softmax(1) * cosines).sum(1).mean()

    @property
    def scoring(self) -> Float[Tensor, "K C"]:
        """The centroids that score: of both sets the one that was taken."""
        if not self.both:
            return self.centroids
        return torch.where(self.takes_grouped, self.grouped, self.centroids)


def _cosines(
    codes: Float[Tensor, "B C h w"], centroids: Float[Tensor, "K C"]
) -> Float[Tensor, "B K h w"]:
    return torch.einsum("bchw,kc->bkhw", normalize(codes, dim=1), normalize(centroids, dim=1))
