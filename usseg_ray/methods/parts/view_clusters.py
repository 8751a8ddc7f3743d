"""The clusters of two views of an image, and the losses within and across the views.

PiCIE labels every cell of a view with its nearest centroid, and has the codes of both views tell
these labels, with the centroids as classifier.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from usseg_ray.methods.parts.joint import weighted_cross_entropy
from usseg_ray.methods.parts.minibatch_kmeans import nearest
from usseg_ray.ops.counting import occurrences
from usseg_ray.settings.picie import ClassWeights


class ViewClusters(nn.Module):
    """The clusters of each view at one K, remembered; before the first epoch they are a keyed draw.

    Args:
        views: Views, each with clusters of its own.
        k: Clusters of a view.
        dim: Channels of a code.
        generator: Draws the directions that stand for centroids until there are some.
    """

    centroids: Tensor
    counts: Tensor
    distance: Tensor

    def __init__(self, views: int, k: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        directions = normalize(torch.randn(views, k, dim, generator=generator), dim=2)
        self.register_buffer("centroids", directions)
        self.register_buffer("counts", torch.ones(views, k, dtype=torch.int64))
        self.register_buffer("distance", torch.zeros(views))

    def label(self, codes: Sequence[Float[Tensor, "B C h w"]]) -> list[Int64[Tensor, "B h w"]]:
        """Labels the cells of every view with their nearest centroids."""
        return [
            nearest(own, centroids) for own, centroids in zip(codes, self.centroids, strict=True)
        ]

    def cells(self, codes: Sequence[Float[Tensor, "B C h w"]]) -> Int64[Tensor, "V K"]:
        """Counts the cells of every cluster of every view."""
        k = self.counts.shape[1]
        labels = self.label(codes)
        return torch.stack([occurrences(own, k) for own in labels])

    def logits(self, codes: Float[Tensor, "B C h w"], view: int) -> Float[Tensor, "B K h w"]:
        """Computes dot products with a view's centroids, the official code's classifier."""
        return nn.functional.conv2d(codes, self.centroids[view, :, :, None, None])

    def weights(self, kind: ClassWeights) -> Float[Tensor, "V K"]:
        """Weighs the clusters of every view by how many cells they have."""
        if kind == "none":
            return torch.ones_like(self.centroids[:, :, 0])
        shares = self.counts / self.counts.sum(1, keepdim=True).clamp(min=1)
        if kind == "frequency":
            return shares
        return torch.where(self.counts > 0, 1 / (shares.shape[1] * shares), 0.0)


class ViewTerms(NamedTuple):
    """The losses of two views.

    Attributes:
        within: Mean loss of each view's codes against their own labels.
        across: Mean loss of each view's codes against the other view's labels.
    """

    within: Float[Tensor, ""]
    across: Float[Tensor, ""]


def cross_view_terms(
    codes: Sequence[Float[Tensor, "B C h w"]],
    labels: Sequence[Int64[Tensor, "B h w"]],
    clusters: ViewClusters,
    class_weights: ClassWeights,
) -> ViewTerms:
    """Computes the four cross-entropies; classifier, weights and labels belong together.

    Args:
        codes: (B, C, h, w) of view 1 and of view 2, unit norm over C.
        labels: (B, h, w) of view 1 and of view 2.
        clusters: Of both views.
        class_weights: How clusters are weighed.

    Reference:
        arXiv 2103.17070, within-view and cross-view losses; averaged as in the official code.
    """
    weights = clusters.weights(class_weights)

    def loss(own: int, labelled: int) -> Tensor:
        logits = clusters.logits(codes[own], labelled)
        return weighted_cross_entropy(logits, labels[labelled], weights[labelled])

    return ViewTerms((loss(0, 0) + loss(1, 1)) / 2, (loss(0, 1) + loss(1, 0)) / 2)
