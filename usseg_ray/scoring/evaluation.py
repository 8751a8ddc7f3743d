"""From label maps to numbers: count, match, and say which images went well.

The only place, with the linear probe, where labels meet predictions. Methods are given `Batch`,
which has no labels; `evaluate` opens `LabelledImages` and compares.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float64, Int16, Int64
from torch import Tensor

from usseg_ray.core.distributed import all_sum
from usseg_ray.core.types import Images, LabelledImages
from usseg_ray.data.manifest import Manifest
from usseg_ray.scoring.boundaries import boundary_counts
from usseg_ray.scoring.metrics import (
    ImageCounts,
    MatchedCounts,
    Scores,
    boundary_f,
    cluster_sizes,
    confusion_matrix,
    confusion_per_image,
    matched_counts,
    other_scores,
    score,
    things_and_stuff,
)
from usseg_ray.scoring.patches import Patches, PatchGallery
from usseg_ray.scoring.prediction import Predictor, label_map
from usseg_ray.scoring.protocols import PLAIN, Refinement

FIXED_EXAMPLES = 4


@dataclass(frozen=True)
class GroundTruth:
    """What the labels of a data set mean.

    Attributes:
        classes: Class names, in the order of the label values.
        ignore_index: Label value of pixels that do not count.
        things: Classes that are countable objects; none if the set does not say.
    """

    classes: tuple[str, ...]
    ignore_index: int
    things: tuple[str, ...] = ()


def ground_truth(manifest: Manifest) -> GroundTruth | None:
    """Says what the labels of a prepared set mean; `None` for a set without classes."""
    if not manifest.classes:
        return None
    return GroundTruth(manifest.classes, manifest.ignore_index, manifest.things)


@dataclass
class Examples:
    """A few images with their label maps, kept for pictures.

    Attributes:
        pixels: One (H, W, 3) uint8 array per image.
        labels: One (H, W) int64 array per image, or none at all without ground truth.
        clusters: One (H, W) int64 array per image.
        captions: Why each image is here, and what it is called.
    """

    pixels: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    clusters: list[np.ndarray] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)

    def add(self, images: Images, clusters: Tensor, labels: Tensor | None, caption: str) -> None:
        """Takes the first image of a batch."""
        self.pixels.append(images.pixels[0].permute(1, 2, 0).cpu().numpy())
        self.clusters.append(clusters[0].cpu().numpy())
        self.captions.append(caption)
        if labels is not None:
            self.labels.append(labels[0].cpu().numpy())


@dataclass(frozen=True)
class RefinementResult:
    """What one refinement of a prediction scored.

    Attributes:
        scores: From the matched confusion matrix.
        boundary_f: Boundary F-score, percent; see `boundaries`.
    """

    scores: Scores
    boundary_f: float


@dataclass(frozen=True)
class Evaluation:
    """One walk over a split.

    Attributes:
        results: The plain prediction's and each refinement's; empty without ground truth.
        rows: Images walked, over all workers.
        numbers: (n,) numbers of this worker's images in the split.
        counts: Of each of them under the split's matching; `None` without ground truth.
        patches: The patches that each cluster is surest of, among this worker's images.
        examples: A few images for pictures; the first worker's.
        fixed: (f, g, g) int16 label maps of the images that all trials are compared on; see
            `label_free`. Empty but at the end of an epoch.
    """

    results: Mapping[Refinement, RefinementResult]
    rows: int
    numbers: Int64[np.ndarray, " n"]
    counts: MatchedCounts | None
    patches: Patches
    examples: Examples = field(default_factory=Examples)
    fixed: Int16[np.ndarray, "f g g"] = field(default_factory=lambda: np.zeros((0, 0, 0), np.int16))

    @property
    def scores(self) -> Scores | None:
        """Scores of the plain prediction, or `None` without ground truth."""
        return self.results[PLAIN].scores if self.results else None

    @property
    def image_miou(self) -> Float64[np.ndarray, " n"]:
        """(n,) mean IoU of this worker's images, percent; see `MatchedCounts.miou`."""
        return np.zeros(0) if self.counts is None else self.counts.miou


class _ScoreTally:
    """Counts of one refinement, on the device that predicts."""

    def __init__(self, num_outputs: int, num_classes: int) -> None:
        self.confusion = torch.zeros(num_outputs, num_classes, dtype=torch.int64)
        self.sizes = torch.zeros(num_outputs, dtype=torch.int64)
        self.boundaries = torch.zeros(4, dtype=torch.int64)

    def add(self, confusion: Tensor, sizes: Tensor, boundaries: Tensor) -> None:
        self.confusion = self.confusion.to(confusion.device) + confusion
        self.sizes = self.sizes.to(sizes.device) + sizes
        self.boundaries = self.boundaries.to(boundaries.device) + boundaries

    def counts(self, device: torch.device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Adds the workers' up: confusion, sizes and boundaries."""
        parts = (self.confusion.flatten(), self.sizes, self.boundaries)
        found = all_sum(torch.cat(parts).to(device)).cpu()
        confusion, sizes, boundaries = found.split([part.numel() for part in parts])
        shaped = confusion.view(self.confusion.shape)
        return shaped.numpy(), sizes.numpy(), boundaries.numpy()


@torch.no_grad()
def evaluate(
    predictor: Predictor,
    batches: Iterable[LabelledImages],
    truth: GroundTruth,
    *,
    expected_rows: int,
    device: torch.device,
    class_of: Int64[np.ndarray, " K"] | None = None,
) -> Evaluation:
    """Scores label maps on a split, each refinement with one global confusion matrix.

    Args:
        predictor: Makes the label maps.
        batches: This worker's labelled images.
        truth: Classes and the label that does not count.
        expected_rows: Images that all workers together must walk.
        device: Where counts of workers are added up.
        class_of: (K,) class of every output where that is known (a linear probe's); matched if
            unset.

    Returns:
        The scores, equal on every worker, and this worker's images.

    Raises:
        RuntimeError: Rows were lost or read twice.
        ValueError: No pixel is labelled.
    """
    num_outputs, num_classes = predictor.scorer.num_outputs, len(truth.classes)
    tallies = {
        r: _ScoreTally(num_outputs, num_classes) for r in (PLAIN, *predictor.refining.refinements)
    }
    images, numbers = ImageCounts(), list[int]()
    gallery = PatchGallery(num_outputs)
    for labelled in batches:
        prediction = predictor.predict(labelled.images)
        gallery.add(labelled.images.pixels, prediction.scores())
        labels = labelled.labels.to(prediction.scores().device)
        maps = prediction.label_maps((labels.shape[-2], labels.shape[-1]))
        sizes = (num_outputs, num_classes, truth.ignore_index)
        each = confusion_per_image(maps[PLAIN], labels, *sizes)
        images.add(each)
        numbers += labelled.numbers
        for refinement, clusters in maps.items():
            plain = refinement == PLAIN
            counts = each.sum(0) if plain else confusion_matrix(clusters, labels, *sizes)
            borders = boundary_counts(clusters, labels, truth.ignore_index, num_classes)
            tallies[refinement].add(counts, cluster_sizes(clusters, num_outputs), borders)
    total = int(all_sum(torch.tensor([len(numbers)], device=device)))
    if total != expected_rows:
        raise RuntimeError(f"evaluation walked {total} images, the split has {expected_rows}")
    results = {name: _result(tally, class_of, device) for name, tally in tallies.items()}
    matched = matched_counts(images, results[PLAIN].scores.class_of, num_classes)
    return Evaluation(results, total, np.array(numbers, np.int64), matched, gallery.patches())


def _result(
    tally: _ScoreTally, class_of: np.ndarray | None, device: torch.device
) -> RefinementResult:
    """Adds the workers' counts up and scores them."""
    confusion, sizes, boundaries = tally.counts(device)
    return RefinementResult(score(confusion, class_of, sizes), boundary_f(boundaries))


def telling_rows(evaluation: Evaluation) -> dict[int, str]:
    """Chooses images to show: some from all over the split, then the best, median and worst.

    The former are the same in every run.

    Args:
        evaluation: With scores.

    Returns:
        Number of an image in its split -> why it is shown; each image once.
    """
    scored = np.flatnonzero(~np.isnan(evaluation.image_miou))
    order = scored[np.argsort(-evaluation.image_miou[scored], kind="stable")]
    places = _from_all_over(len(evaluation.numbers), FIXED_EXAMPLES)
    chosen = {int(number): "" for number in np.sort(evaluation.numbers)[places]}
    for place, index in {
        "best": order[:1],
        "median": order[len(order) // 2 :][:1],
        "worst": order[-1:],
    }.items():
        for position in index.tolist():
            chosen[int(evaluation.numbers[position])] = place
    return chosen


def _from_all_over(total: int, count: int) -> Int64[np.ndarray, " c"]:
    """Chooses the middle ones of equal parts of a row, all where there are fewer than asked for."""
    count = min(count, total)  # a worker's part of a split may have no image
    return (2 * np.arange(count) + 1) * total // max(1, 2 * count)


@torch.no_grad()
def show(predictor: Predictor, rows: Iterable[LabelledImages], evaluation: Evaluation) -> Examples:
    """Predicts the rows that `telling_rows` chose, plainly, for pictures, in the order chosen.

    Args:
        predictor: Makes the label maps.
        rows: The images, one in each batch, as squares.
        evaluation: Of the same predictor.
    """
    examples, why = Examples(), telling_rows(evaluation)
    order = {number: place for place, number in enumerate(why)}
    miou = dict(zip(evaluation.numbers.tolist(), evaluation.image_miou.tolist(), strict=True))
    for labelled in sorted(rows, key=lambda one: order[one.numbers[0]]):
        (number,), (name,) = labelled.numbers, labelled.images.ids
        scores = predictor.predict(labelled.images).scores()
        clusters = label_map(scores, (labelled.labels.shape[-2], labelled.labels.shape[-1]))
        place = f"{why[number]}: " if why[number] else ""
        caption = f"{place}{name}, mIoU {miou[number]:.1f}"
        examples.add(labelled.images, clusters, labelled.labels, caption)
    return examples


@torch.no_grad()
def segment(
    predictor: Predictor,
    batches: Iterable[Images],
    *,
    num_examples: int = 6,
) -> Evaluation:
    """Predicts some images of a split that has no ground truth, for pictures.

    Args:
        predictor: Makes the label maps.
        batches: This worker's images, few enough to be held; each cluster's patches are of these.
        num_examples: Images to keep, from all over them.

    Returns:
        An evaluation without scores.
    """
    held = list(batches)
    shown = _from_all_over(sum(len(images.ids) for images in held), num_examples)
    examples, gallery, rows = Examples(), PatchGallery(predictor.scorer.num_outputs), 0
    for images in held:
        scores = predictor.predict(images).scores()
        gallery.add(images.pixels, scores)
        clusters = label_map(scores, (images.pixels.shape[-2], images.pixels.shape[-1]))
        for index in (shown[(shown >= rows) & (shown < rows + len(images.ids))] - rows).tolist():
            one = slice(index, index + 1)
            first = Images(images.ids[one], images.pixels[one])
            examples.add(first, clusters[one], None, images.ids[index])
        rows += len(images.ids)
    return Evaluation({}, rows, np.zeros(0, np.int64), None, gallery.patches(), examples)


def score_metrics(evaluation: Evaluation, truth: GroundTruth | None) -> dict[str, float]:
    """Names an evaluation's scalars as they are logged; nothing for unlabelled data.

    A refinement's have its name before them, such as `flip_crf.unsup_miou`.
    """
    if truth is None or not evaluation.results:
        return {}
    found = {"evaluated_images": float(evaluation.rows)}
    for refinement, result in evaluation.results.items():
        named = _named(result, truth)
        found |= {f"{refinement.prefix}{name}": value for name, value in named.items()}
    return found


def linear_metrics(results: Mapping[Refinement, RefinementResult]) -> dict[str, float]:
    """Names the scalars of a linear probe: `linear_miou` and `linear_acc`, by refinement."""
    return {
        f"{refinement.prefix}linear_{unit}": value
        for refinement, result in results.items()
        for unit, value in (
            ("miou", result.scores.unsup_miou),
            ("acc", result.scores.unsup_acc),
        )
    }


def _named(result: RefinementResult, truth: GroundTruth) -> dict[str, float]:
    scores = result.scores
    parts = things_and_stuff(scores.iou, truth.classes, truth.things) if truth.things else {}
    return {
        "unsup_miou": scores.unsup_miou,
        "unsup_acc": scores.unsup_acc,
        "boundary_f": result.boundary_f,
        "used_clusters": float(scores.used_clusters),
        "largest_share": scores.largest_share,
        "cluster_entropy": scores.entropy,
        "collapsed": float(scores.collapsed),
        **other_scores(scores.confusion),
        **parts,
    }
