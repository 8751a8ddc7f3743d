"""Scores of a clustering against a ground truth, from integers counted over a whole split.

One int64 matrix counts every labelled pixel of a split, summed over workers; clusters are matched
to classes once, on that matrix. A mean of per-batch scores would depend on the batches. How large
clusters are is counted over all pixels, labelled or not. Only the score of the boundaries needs to
know where pixels lie, and has counts of its own.
"""

import math
from collections.abc import Collection, Sequence
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
    # A column for pixels that do not count is cheaper than to pick out those that do.
    columns = num_classes + 1
    index = clusters * columns + torch.where(valid, labels, num_classes)
    counts = torch.bincount(index.flatten(), minlength=num_clusters * columns)
    return counts.view(num_clusters, columns)[:, :-1].contiguous()


def confusion_per_image(
    clusters: Int64[Tensor, "B H W"],
    labels: Int64[Tensor, "B H W"],
    num_clusters: int,
    num_classes: int,
    ignore_index: int,
) -> Int64[Tensor, "B K C"]:
    """Counts pixels by image, cluster and class; see `confusion_matrix`, which is their sum."""
    images = torch.arange(len(labels), device=labels.device)[:, None, None] * num_clusters
    counts = confusion_matrix(
        clusters + images, labels, len(labels) * num_clusters, num_classes, ignore_index
    )
    return counts.view(len(labels), num_clusters, num_classes)


def cluster_sizes(clusters: Int64[Tensor, "*shape"], num_clusters: int) -> Int64[Tensor, " K"]:
    """Counts the pixels of every cluster, labelled or not, on the tensor's device."""
    return torch.bincount(clusters.flatten(), minlength=num_clusters)


class ImageCounts:
    """Confusion matrices of single images, kept as the few entries that are not 0."""

    def __init__(self) -> None:
        self._entries: list[Int64[np.ndarray, "n 4"]] = []
        self.num_images = 0

    def add(self, counts: Int64[Tensor, "B K C"]) -> None:
        """Takes the matrices of a batch."""
        counts = counts.cpu()
        where = counts.nonzero()
        entries = torch.cat([where, counts[tuple(where.T)][:, None]], dim=1).numpy()
        entries[:, 0] += self.num_images
        self._entries.append(entries)
        self.num_images += len(counts)

    def entries(self) -> Int64[np.ndarray, "n 4"]:
        """Returns rows of image, cluster, class and count."""
        return np.concatenate([np.zeros((0, 4), np.int64), *self._entries])


@dataclass(frozen=True)
class MatchedCounts:
    """Labelled pixels of every image by class, under the matching of the whole split.

    Attributes:
        intersection: (n, C) int64, of the class and predicted as it.
        predicted: (n, C) int64, predicted as the class.
        actual: (n, C) int64, of the class.
    """

    intersection: Int64[np.ndarray, "n C"]
    predicted: Int64[np.ndarray, "n C"]
    actual: Int64[np.ndarray, "n C"]

    @property
    def miou(self) -> Float64[np.ndarray, " n"]:
        """(n,) mean IoU over the classes that each image's labels have, percent.

        NaN where an image has no labelled pixel.
        """
        present = self.actual > 0
        union = self.actual + self.predicted - self.intersection
        iou = np.where(present, self.intersection / np.maximum(union, 1), 0.0)
        with np.errstate(invalid="ignore"):
            found: Float64[np.ndarray, " n"] = 100.0 * iou.sum(1) / present.sum(1)
        return found


def matched_counts(
    images: ImageCounts, class_of: Int64[np.ndarray, " K"], num_classes: int
) -> MatchedCounts:
    """Sorts every image's pixels by class.

    Args:
        images: Counts of each.
        class_of: (K,) class of every cluster, -1 for a cluster without one.
        num_classes: C.
    """
    image, cluster, label, count = images.entries().T
    predicted = class_of[cluster]
    actual, claimed, hits = (np.zeros((images.num_images, num_classes), np.int64) for _ in range(3))
    np.add.at(actual, (image, label), count)
    matched = predicted >= 0
    np.add.at(claimed, (image[matched], predicted[matched]), count[matched])
    right = predicted == label
    np.add.at(hits, (image[right], label[right]), count[right])
    return MatchedCounts(hits, claimed, actual)


@dataclass(frozen=True)
class Scores:
    """What one matched confusion matrix says.

    Attributes:
        unsup_miou: Mean IoU over the classes that occur or are predicted, percent.
        unsup_acc: Share of labelled pixels whose matched class is right, percent.
        iou: (C,) float64, percent; NaN for a class that neither occurs nor is predicted.
        class_of: (K,) int64, class of every cluster, -1 for a cluster without one.
        confusion: (K, C) int64, as counted.
        used_clusters: Clusters that own at least one labelled pixel.
        largest_share: Share of all pixels in the largest cluster, percent.
        entropy: Of the clusters' shares of all pixels, percent of ln K: 100 where all are equally
            large.
    """

    unsup_miou: float
    unsup_acc: float
    iou: Float64[np.ndarray, " C"]
    class_of: Int64[np.ndarray, " K"]
    confusion: Int64[np.ndarray, "K C"]
    used_clusters: int
    largest_share: float
    entropy: float

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


def majority_match(confusion: Int64[np.ndarray, "K C"]) -> Int64[np.ndarray, " K"]:
    """Gives every cluster the class that most of its pixels have (many to one).

    It rises with K whatever the clusters are, up to 100 % for one cluster a pixel, so it compares
    only clusterings of equal K.

    Args:
        confusion: (K, C) counts of a whole split.

    Returns:
        (K,) class of every cluster; -1 for one without labelled pixels.
    """
    return np.where(confusion.any(axis=1), confusion.argmax(axis=1), -1).astype(np.int64)


def merged_match(confusion: Int64[np.ndarray, "K C"]) -> Int64[np.ndarray, " K"]:
    """Matches one to one, then merges every cluster left over into its most frequent class.

    Where K <= C nothing is left over, and it is `hungarian_match`.

    Args:
        confusion: (K, C) counts of a whole split.

    Returns:
        (K,) class of every cluster; -1 for one without labelled pixels that found no class.
    """
    class_of = hungarian_match(confusion)
    if len(confusion) <= confusion.shape[1]:
        return class_of
    return np.where(class_of >= 0, class_of, majority_match(confusion))


def score(
    confusion: Int64[np.ndarray, "K C"],
    class_of: Int64[np.ndarray, " K"] | None = None,
    sizes: Int64[np.ndarray, " K"] | None = None,
) -> Scores:
    """Scores a confusion matrix, matched one to one unless the classes are given.

    A class that neither occurs nor is predicted leaves the mean; one that occurs without a cluster,
    or is predicted without occurring, counts 0.

    Args:
        confusion: (K, C) counts of a whole split.
        class_of: (K,) class of every cluster, for predictions that need no matching (a supervised
            probe); Hungarian matching if unset.
        sizes: (K,) pixels of every cluster, those without a label included; if unset, every pixel
            has one.

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
    present = union > 0
    iou = np.full(confusion.shape[1], np.nan)
    iou[present] = 100.0 * hits[present] / union[present]
    labelled = confusion.sum(axis=1)
    sizes = labelled if sizes is None else sizes
    return Scores(
        unsup_miou=float(iou[present].mean()),
        unsup_acc=100.0 * float(hits.sum()) / total,
        iou=iou,
        class_of=class_of,
        confusion=confusion,
        used_clusters=int((labelled > 0).sum()),
        largest_share=100.0 * float(sizes.max()) / int(sizes.sum()),
        entropy=_evenness(sizes / int(sizes.sum())),
    )


def other_scores(confusion: Int64[np.ndarray, "K C"]) -> dict[str, float]:
    """Scores the same matrix by the other matchings in use, each under its own name.

    Args:
        confusion: (K, C) counts of a whole split.

    Returns:
        In percent: `many_to_one_miou` and `many_to_one_acc` (`majority_match`); where K > C also
        `merged_miou` and `merged_acc` (`merged_match`) and `first_clusters_miou` and
        `first_clusters_acc`, STEGO's metric, which leaves out every pixel of the clusters C to
        K - 1, wrong or right (none where no labelled pixel is left).
    """
    num_classes = confusion.shape[1]
    found = {"many_to_one": score(confusion, majority_match(confusion))}
    if len(confusion) > num_classes:
        found["merged"] = score(confusion, merged_match(confusion))
        if confusion[:num_classes].any():
            found["first_clusters"] = score(confusion[:num_classes])
    return {
        f"{name}_{unit}": value
        for name, scores in found.items()
        for unit, value in (("miou", scores.unsup_miou), ("acc", scores.unsup_acc))
    }


def boundary_f(counts: Int64[np.ndarray, "4"]) -> float:
    """Says how well predicted boundaries lie on the true ones, from the counts of a whole split.

    Args:
        counts: Of `boundaries.boundary_counts`, summed.

    Returns:
        Harmonic mean of the share of predicted boundary pixels near a true one (precision) and of
        true ones near a predicted one (recall), percent. 100 where neither map has a boundary,
        since they agree; 0 where only one has.
    """
    predicted, right, true, found = (int(count) for count in counts)
    if predicted == true == 0:
        return 100.0
    if right == 0 or found == 0:
        return 0.0
    return 200.0 / (predicted / right + true / found)


def things_and_stuff(
    iou: Float64[np.ndarray, " C"], classes: Sequence[str], things: Collection[str]
) -> dict[str, float]:
    """Averages IoU over things and over stuff, in the order of classes.

    PiCIE's code splits the matched matrix by clusters instead, which mixes the two.

    Args:
        iou: (C,) percent; NaN for a class that does not count.
        classes: C names.
        things: Those that are countable objects.

    Returns:
        `things_miou` and `stuff_miou`, percent; a part without a class that counts is left out.
    """
    is_thing = np.array([name in things for name in classes], dtype=bool)
    parts = {"things_miou": iou[is_thing], "stuff_miou": iou[~is_thing]}
    return {
        name: float(np.nanmean(part)) for name, part in parts.items() if not np.isnan(part).all()
    }


def _evenness(shares: Float64[np.ndarray, " K"]) -> float:
    if len(shares) == 1:
        return 100.0
    used = shares[shares > 0]
    # 0.0 -: one cluster with everything has entropy 0, not -0.
    return 100.0 * (0.0 - float((used * np.log(used)).sum())) / math.log(len(shares))
