"""What a gallery keeps of an image: small copies, and where each cluster is clearest in it."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Float32, Int64, Integer, UInt8, UInt16
from PIL import Image

from usseg_ray.core.types import Batch
from usseg_ray.core.views import Frame
from usseg_ray.data.transforms import frame_image
from usseg_ray.engine.model import Model
from usseg_ray.models.segmenter import Segmenter, segments_of

SMALL = 160
"""Longest side of what is kept of an image, pixels."""

CELLS = 12
"""Patches along the short side."""


@dataclass(frozen=True, eq=False)
class ClusterPatches:
    """Where clusters win with the highest probability, and by the smallest margin.

    Attributes:
        grid: Patches from the top down and from left to right.
        sure: (K,) the highest probability, -inf where the cluster wins no patch.
        typical: (K,) the patch that has it.
        margin: (K,) how far it is ahead of the next one where that is least, inf without a patch.
        borderline: (K,) the patch where that is.
        rival: (K,) the cluster that comes next there.
    """

    grid: tuple[int, int]
    sure: Float32[np.ndarray, " K"]
    typical: Int64[np.ndarray, " K"]
    margin: Float32[np.ndarray, " K"]
    borderline: Int64[np.ndarray, " K"]
    rival: Int64[np.ndarray, " K"]


@dataclass(frozen=True, eq=False)
class GalleryImage:
    """An image.

    Attributes:
        name: Its path below the folder.
        small: (h, w, 3) uint8, RGB.
        clusters: (h, w) uint16, the cluster of every pixel of that.
        code: (C,) mean of the method's codes.
        shares: (K,) of the image's pixels.
        patches: Where each cluster is clearest.
        segments: (h, w) uint8, the image's own segments by number; 0 in none.
    """

    name: str
    small: UInt8[np.ndarray, "h w 3"]
    clusters: UInt16[np.ndarray, "h w"]
    code: Float32[np.ndarray, " C"]
    shares: Float32[np.ndarray, " K"]
    patches: ClusterPatches
    segments: UInt8[np.ndarray, "h w"]


def see(segmenter: Segmenter, image: UInt8[np.ndarray, "H W 3"], name: str) -> GalleryImage:
    """Looks at an image.

    Args:
        segmenter: The model, without names: merged clusters are to be seen apart.
        image: (H, W, 3) uint8, RGB.
        name: What it is called.
    """
    shown = segmenter.description.preprocessing
    # First to the size that the model sees it at: probabilities of K clusters take K images.
    framed = frame_image(image, Frame(shown.size, "whole", shown.filter)).transpose(1, 2, 0)
    scores = segmenter.segment(np.ascontiguousarray(framed), scores=True).scores
    assert scores is not None
    clusters = scores.argmax(0)
    small = Image.fromarray(image)
    small.thumbnail((SMALL, SMALL))
    size = (small.height, small.width)
    square, model = segmenter.squashed(image), segmenter.model
    frozen = model.featurise.needs.features
    return GalleryImage(
        name,
        np.asarray(small),
        _nearest(clusters, size),
        _code(model, square),
        (np.bincount(clusters.ravel(), minlength=len(scores)) / clusters.size).astype(np.float32),
        clearest(scores),
        segments_of(square.features.tokens, size) if frozen else np.zeros(size, np.uint8),
    )


@torch.no_grad()
def _code(model: Model, square: Batch) -> np.ndarray:
    codes = model.method.encode(square)
    return np.asarray(codes.float().mean((0, 2, 3)).cpu().numpy())


def _nearest(clusters: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        np.arange(short) * long // short for short, long in zip(size, clusters.shape, strict=True)
    )
    return clusters[np.ix_(rows, columns)].astype(np.uint16)


def touching(clusters: Integer[np.ndarray, "H W"], count: int) -> Int64[np.ndarray, "K K"]:
    """Counts sides of pixels between different clusters.

    Args:
        clusters: (H, W) from 0.
        count: K.

    Returns:
        (K, K), symmetric, nothing on the diagonal.
    """
    pairs = [(clusters[:, 1:], clusters[:, :-1]), (clusters[1:], clusters[:-1])]
    found = np.zeros((count, count), np.int64)
    for one, other in pairs:
        apart = one != other
        np.add.at(found, (one[apart], other[apart]), 1)
    return found + found.T


def clearest(scores: Float32[np.ndarray, "K H W"]) -> ClusterPatches:
    """Finds the patches where clusters win most and least clearly.

    Args:
        scores: (K, H, W) probabilities; a patch has their mean.
    """
    count, height, width = scores.shape
    side = max(1, min(height, width) // CELLS)
    grid = max(1, height // side), max(1, width // side)
    patches = F.adaptive_avg_pool2d(torch.from_numpy(scores), grid).flatten(1).numpy()
    first, ahead, following = _ranked(patches)
    highest = patches[first, np.arange(patches.shape[1])]
    sure, margin = np.full(count, -np.inf, np.float32), np.full(count, np.inf, np.float32)
    typical, borderline, rival = (np.zeros(count, np.int64) for _ in range(3))
    for cluster in np.unique(first):
        own = np.flatnonzero(first == cluster)
        best, worst = own[highest[own].argmax()], own[ahead[own].argmin()]
        sure[cluster], typical[cluster] = highest[best], best
        margin[cluster], borderline[cluster] = ahead[worst], worst
        rival[cluster] = following[worst]
    return ClusterPatches(grid, sure, typical, margin, borderline, rival)


def _ranked(patches: Float[np.ndarray, "K n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds who wins every patch, by how much, and who comes next (itself where it is alone)."""
    best = torch.from_numpy(patches).topk(min(2, len(patches)), dim=0)
    values, order = best.values.numpy(), best.indices.numpy()
    return order[0], values[0] - values[-1], order[-1]
