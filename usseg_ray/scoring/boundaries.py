"""How well the borders of a label map lie on the true ones, as counts that can be summed.

IoU hardly feels a border that is a patch off; this does. `evaluation` counts every batch, adds the
counts up over batches and workers, and `metrics.boundary_f` makes one number of the sums. Clusters
need no matching for it: a border is a border, whichever two clusters it parts.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Int64
from torch import Tensor


def boundary_counts(
    clusters: Int64[Tensor, "B H W"],
    labels: Int64[Tensor, "B H W"],
    ignore_index: int,
    num_classes: int,
    tolerance: float = 0.0075,
) -> Int64[Tensor, "4"]:
    """Counts boundary pixels of prediction and ground truth, and those that lie on each other.

    A pixel is a boundary where its right or its lower neighbour has another cluster (or class) and
    both of the pair are labelled. So a prediction is free to have boundaries next to and inside
    areas without a label; but a set that hides its own borders under an unlabelled band
    (Pascal VOC) has hardly a true boundary left. A boundary is found if the other map has one at
    most r pixels away in each direction, r = `tolerance` times the image's diagonal, rounded and at
    least 1; one boundary may find several.

    Args:
        clusters: Predicted cluster of every pixel.
        labels: Class of every pixel, 0 to C - 1, or `ignore_index`.
        ignore_index: Label of pixels that do not count; so do other labels outside the classes.
        num_classes: C.
        tolerance: Share of the image's diagonal, in pixels.

    Returns:
        Predicted boundary pixels, those of them that are near a true one, true boundary pixels,
        those of them that are near a predicted one; on the tensors' device.

    Reference:
        Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic
        segmentation?", BMVC 2013, with its tolerance of 0.75 %; here over all classes at once and
        a whole split, where the paper takes a mean over classes and images.
    """
    labelled = (labels >= 0) & (labels < num_classes) & (labels != ignore_index)
    predicted, true = _boundaries(clusters, labelled), _boundaries(labels, labelled)
    radius = max(1, round(tolerance * math.hypot(*labels.shape[-2:])))
    kinds = (
        predicted,
        predicted & _dilated(true, radius),
        true,
        true & _dilated(predicted, radius),
    )
    return torch.stack([kind.count_nonzero() for kind in kinds])


def _boundaries(
    ids: Int64[Tensor, "B H W"], labelled: Bool[Tensor, "B H W"]
) -> Bool[Tensor, "B H W"]:
    found = torch.zeros_like(labelled)
    right = (ids[..., 1:] != ids[..., :-1]) & labelled[..., 1:] & labelled[..., :-1]
    below = (ids[:, 1:] != ids[:, :-1]) & labelled[:, 1:] & labelled[:, :-1]
    found[..., :-1] = right
    found[:, :-1] |= below
    return found


def _dilated(mask: Bool[Tensor, "B H W"], radius: int) -> Bool[Tensor, "B H W"]:
    """Marks whatever is at most `radius` from a marked pixel, along rows and columns."""
    window = 2 * radius + 1
    mask = F.pad(mask, (radius,) * 4)
    for dim in (1, 2):
        span = 1
        # Joining the map with itself, shifted by what is joined already, takes log2(window) steps.
        while span < window:
            step = min(span, window - span)
            length = mask.shape[dim] - step
            mask = mask.narrow(dim, 0, length) | mask.narrow(dim, step, length)
            span += step
    return mask
