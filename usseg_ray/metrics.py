"""Scores of a clustering against a ground truth, all from one confusion matrix.

One int64 matrix counts every labelled pixel of a split, summed over workers; clusters are matched
to classes once, on that matrix. A mean of per-batch scores would depend on the batches.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def confusion_matrix(
    clusters: Int64[Tensor, "*shape"],
    labels: Int64[Tensor, "*shape"],
    num_clusters: int,
    num_classes: int,
    ignore_index: int,
) -> Int64[Tensor, "K C"]:
    """Counts pixels by cluster and class, on the tensors' device.

    Args:
        clusters: Predicted cluster of every pixel, 0 to K - 1.
        labels: Class of every pixel, 0 to C - 1, or `ignore_index`.
        num_clusters: K.
        num_classes: C.
        ignore_index: Label of pixels that do not count; so do other labels outside the classes.

    Returns:
        (K, C) int64.
    """
    valid = (labels >= 0) & (labels < num_classes) & (labels != ignore_index)
    index = clusters[valid] * num_classes + labels[valid]
    counts = torch.bincount(index, minlength=num_clusters * num_classes)
    return counts.view(num_clusters, num_classes)


@dataclass(frozen=True)
class Scores:
    """What one matched confusion matrix says.

    Attributes:
        unsup_miou: Mean IoU over the classes that occur, percent.
        unsup_acc: Share of labelled pixels whose matched class is right, percent.
        iou: (C,) float64, percent; NaN for a class that does not occur in the ground truth.
        class_of: (K,) int64, class of every cluster, -1 for a cluster without one.
        confusion: (K, C) int64, as counted.
        used_clusters: Clusters that own at least one labelled pixel.
        largest_share: Share of labelled pixels in the largest cluster, percent.
    """

    unsup_miou: float
    unsup_acc: float
    iou: Float64[np.ndarray, " C"]
    class_of: Int64[np.ndarray, " K"]
    confusion: Int64[np.ndarray, "K C"]
    used_clusters: int
    largest_share: float

    @property
    def collapsed(self) -> bool:
        """Whether nearly all pixels fell into one cluster, so that the score means nothing."""
        return self.largest_share > 99.0


def hungarian_match(confusion: Int64[np.ndarray, "K C"]) -> Int64[np.ndarray, " K"]:
    """Matches clusters to classes one to one, for the most pixels right.

    Args:
        confusion: (K, C) counts of a whole split.

    Returns:
        (K,) class of every cluster; -1 for the K - C clusters left over where K > C. Their pixels
        count as wrong, they are not dropped.

    Reference:
        Kuhn 1955, by `scipy.optimize.linear_sum_assignment`; protocol of IIC and PiCIE.
    """
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    class_of = np.full(confusion.shape[0], -1, dtype=np.int64)
    class_of[rows] = columns
    return class_of


def score(
    confusion: Int64[np.ndarray, "K C"], class_of: Int64[np.ndarray, " K"] | None = None
) -> Scores:
    """Scores a confusion matrix, matched one to one unless the classes are given.

    A class that is absent from the ground truth leaves the mean; a present class without a
    cluster counts 0.

    Args:
        confusion: (K, C) counts of a whole split.
        class_of: (K,) class of every cluster, for predictions that need no matching (a supervised
            probe); Hungarian matching if unset.

    Returns:
        The scores, in percent.

    Raises:
        ValueError: No pixel is labelled.
    """
    total = int(confusion.sum())
    if total == 0:
        raise ValueError("not one labelled pixel was evaluated: check ignore_index and the labels")
    if class_of is None:
        class_of = hungarian_match(confusion)
    hits = np.zeros(confusion.shape[1], dtype=np.int64)
    predicted = np.zeros_like(hits)
    matched: Bool[np.ndarray, " K"] = class_of >= 0
    # Given classes may name one class twice, so counts are added, not set.
    np.add.at(hits, class_of[matched], confusion[matched, class_of[matched]])
    np.add.at(predicted, class_of[matched], confusion[matched].sum(axis=1))
    truth = confusion.sum(axis=0)
    union = truth + predicted - hits
    present = truth > 0
    iou = np.full(confusion.shape[1], np.nan)
    iou[present] = 100.0 * hits[present] / union[present]
    sizes = confusion.sum(axis=1)
    return Scores(
        unsup_miou=float(iou[present].mean()),
        unsup_acc=100.0 * float(hits.sum()) / total,
        iou=iou,
        class_of=class_of,
        confusion=confusion,
        used_clusters=int((sizes > 0).sum()),
        largest_share=100.0 * float(sizes.max()) / total,
    )
