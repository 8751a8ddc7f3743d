"""The patches that a clustering is surest of, a few for every cluster.

They say what a cluster is, where no label can. `evaluation` shows every batch that it predicts to a
`PatchGallery`, which keeps the best patches of all; `mosaic.gallery_figure` draws them.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

_GREY = 128


@dataclass(frozen=True)
class Patches:
    """The best patches of every cluster, best first.

    Attributes:
        pixels: (K, n, side, side, 3) uint8, RGB; grey where a cluster has fewer.
        scores: (K, n) float32, the cluster's score there; -inf where a cluster has fewer.
    """

    pixels: UInt8[np.ndarray, "K n side side 3"]
    scores: Float32[np.ndarray, "K n"]

    @property
    def found(self) -> Bool[np.ndarray, "K n"]:
        """(K, n) bool, where there is a patch."""
        return self.scores > -np.inf


class PatchGallery:
    """Keeps for every cluster the places where it wins with the highest score, one an image.

    What is kept does not depend on how images are grouped into batches; of equal scores the one
    that came first stays. It takes K x `per_cluster` patches of memory, however many images come.

    Args:
        num_clusters: K.
        per_cluster: Patches to keep for a cluster.
        side: Height and width of a patch, pixels.
    """

    def __init__(self, num_clusters: int, *, per_cluster: int = 8, side: int = 64) -> None:
        self._side = side
        self._scores = torch.full((num_clusters, per_cluster), -torch.inf)
        shape = (num_clusters, per_cluster, side, side, 3)
        self._pixels = torch.full(shape, _GREY, dtype=torch.uint8)

    @torch.no_grad()
    def add(self, pixels: UInt8[Tensor, "B 3 H W"], scores: Float[Tensor, "B K h w"]) -> None:
        """Offers some images.

        Args:
            pixels: (B, 3, H, W) uint8.
            scores: (B, K, h, w) cluster scores; the largest wins, the first of equal ones.
        """
        per_cluster = self._scores.shape[1]
        best, places = _best_places(scores)
        joined = torch.cat([self._scores, best.T], dim=1)
        # Stable, and what is here already goes first, so that equal scores stay as they came.
        ranked, order = joined.sort(dim=1, descending=True, stable=True)
        self._scores, order = ranked[:, :per_cluster], order[:, :per_cluster]
        enters = order >= per_cluster
        clusters, slots = enters.nonzero(as_tuple=True)
        if not len(clusters):
            return
        changed = clusters.unique()
        stays = order.where(~enters, 0)[changed]
        self._pixels[changed] = self._pixels[changed[:, None], stays]
        images = order[clusters, slots] - per_cluster
        centres = _centres(places[images, clusters], scores.shape[-2:], pixels.shape[-2:])
        self._pixels[clusters, slots] = _crops(pixels, images, centres, self._side).cpu()

    def patches(self) -> Patches:
        """Gives what is kept.

        Returns:
            A copy.
        """
        return Patches(self._pixels.numpy().copy(), self._scores.numpy().copy())


def _best_places(
    scores: Float[Tensor, "B K h w"],
) -> tuple[Float32[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """Finds where every cluster wins with its highest score, and that score, on the CPU."""
    values, winners = scores.flatten(2).max(dim=1)
    values = values.float()
    best = values.new_full(scores.shape[:2], -torch.inf)
    best.scatter_reduce_(1, winners, values, "amax")
    num_places = values.shape[1]
    index = torch.arange(num_places, device=values.device)
    hits = index.where(values == best.gather(1, winners), num_places)
    places = winners.new_full(scores.shape[:2], num_places)
    places.scatter_reduce_(1, winners, hits, "amin")
    return best.cpu(), places.cpu()


def _centres(
    places: Int64[Tensor, " m"], grid: torch.Size, size: torch.Size
) -> Int64[Tensor, "m 2"]:
    """Takes places of a (h, w) grid to the (H, W) pixels in their middle."""
    cells = torch.stack([places // grid[1], places % grid[1]], dim=1)
    return (2 * cells + 1) * torch.tensor(size) // (2 * torch.tensor(grid))


def _crops(
    pixels: UInt8[Tensor, "B 3 H W"],
    images: Int64[Tensor, " m"],
    centres: Int64[Tensor, "m 2"],
    side: int,
) -> UInt8[Tensor, "m side side 3"]:
    """Cuts squares around places, moved into the image, or out of a grey frame around it."""
    size = torch.tensor(pixels.shape[-2:])
    short = (side - size).clamp(min=0)
    (top, left), (bottom, right) = (short // 2).tolist(), (short - short // 2).tolist()
    if short.any():
        pixels = F.pad(pixels, (left, right, top, bottom), value=_GREY)
    corners = (centres - side // 2).clamp(torch.zeros(2, dtype=torch.int64), size + short - side)
    rows, columns = corners.to(pixels.device).T[..., None] + torch.arange(
        side, device=pixels.device
    )
    return pixels[images.to(pixels.device)[:, None, None], :, rows[:, :, None], columns[:, None]]
