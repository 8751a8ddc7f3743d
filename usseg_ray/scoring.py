"""From cluster scores to numbers: predict, upsample, count, match; and the supervised ceiling.

The only place where labels meet predictions. Methods are given `Batch`, which has no labels;
`evaluate` opens `LabelledImages` and compares.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor

from usseg_ray.batch import Batch, Images, LabelledImages
from usseg_ray.data.shards import Manifest
from usseg_ray.distributed import all_sum, rank, shared_generator, world_size
from usseg_ray.methods.base import Method
from usseg_ray.metrics import Scores, confusion_matrix, score

Featurise = Callable[[Images], Batch]


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
    """

    pixels: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    clusters: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """One walk over a split.

    Attributes:
        scores: The matched scores, or `None` without ground truth.
        rows: Images walked, over all workers.
        examples: This worker's first images.
    """

    scores: Scores | None
    rows: int
    examples: Examples


def label_map(scores: Float[Tensor, "B K h w"], size: tuple[int, int]) -> Int64[Tensor, "B H W"]:
    """Upsamples cluster scores bilinearly and takes the largest.

    Args:
        scores: (B, K, h, w) cluster scores.
        size: (H, W) of the result, pixels.

    Returns:
        (B, H, W) int64, the cluster of every pixel.
    """
    if tuple(scores.shape[-2:]) != size:
        scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    return scores.argmax(dim=1)


@torch.no_grad()
def evaluate(
    method: Method,
    featurise: Featurise,
    batches: Iterable[LabelledImages],
    truth: GroundTruth,
    *,
    expected_rows: int,
    num_examples: int = 6,
) -> Evaluation:
    """Scores a method on a split with one global confusion matrix.

    Args:
        method: Its clusters are fitted already.
        featurise: Turns images into the method's batches.
        batches: This worker's labelled images.
        truth: Classes and the label that does not count.
        expected_rows: Images that all workers together must walk.
        num_examples: Images to keep for pictures.

    Returns:
        The scores, equal on every worker.

    Raises:
        RuntimeError: Rows were lost or read twice.
    """
    counts, rows, examples = None, 0, Examples()
    num_classes = len(truth.classes)
    for labelled in batches:
        labels = labelled.labels
        clusters = label_map(method.predict(featurise(labelled.images)), _size(labels))
        labels = labels.to(clusters.device)
        batch = confusion_matrix(
            clusters, labels, method.num_clusters, num_classes, truth.ignore_index
        )
        counts = batch if counts is None else counts + batch
        rows += len(labels)
        _keep(examples, labelled.images, clusters, labels, num_examples)
    confusion, total = _over_workers(counts, rows, method, num_classes)
    if total != expected_rows:
        raise RuntimeError(f"evaluation walked {total} images, the split has {expected_rows}")
    return Evaluation(score(confusion), total, examples)


@torch.no_grad()
def segment(
    method: Method, featurise: Featurise, batches: Iterable[Images], *, num_examples: int = 6
) -> Evaluation:
    """Predicts a few images of a split that has no ground truth, for pictures.

    Args:
        method: Its clusters are fitted already.
        featurise: Turns images into the method's batches.
        batches: This worker's images.
        num_examples: Images to predict.

    Returns:
        An evaluation without scores.
    """
    examples = Examples()
    for images in batches:
        clusters = label_map(method.predict(featurise(images)), _size(images.pixels))
        _keep(examples, images, clusters, None, num_examples)
        if len(examples.pixels) >= num_examples:
            break
    return Evaluation(None, len(examples.pixels), examples)


def _size(pixels: Tensor) -> tuple[int, int]:
    return pixels.shape[-2], pixels.shape[-1]


def _keep(
    examples: Examples, images: Images, clusters: Tensor, labels: Tensor | None, limit: int
) -> None:
    for i in range(min(len(images.ids), limit - len(examples.pixels))):
        examples.pixels.append(images.pixels[i].permute(1, 2, 0).cpu().numpy())
        examples.clusters.append(clusters[i].cpu().numpy())
        if labels is not None:
            examples.labels.append(labels[i].cpu().numpy())


def _over_workers(
    counts: Tensor | None, rows: int, method: Method, num_classes: int
) -> tuple[np.ndarray, int]:
    device = counts.device if counts is not None else _device_of(method)
    if counts is None:
        counts = torch.zeros(method.num_clusters, num_classes, dtype=torch.int64, device=device)
    packed = all_sum(torch.cat([counts.flatten(), torch.tensor([rows], device=device)]))
    return packed[:-1].view(counts.shape).cpu().numpy(), int(packed[-1])


def _device_of(method: Method) -> torch.device:
    tensors = [*method.parameters(), *method.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def linear_ceiling(
    encode: Callable[[Images], Float[Tensor, "B C h w"]],
    train: Callable[[], Iterable[LabelledImages]],
    test: Iterable[LabelledImages],
    truth: GroundTruth,
    *,
    seed: int,
    epochs: int = 20,
) -> Scores:
    """Trains a supervised 1x1 classifier on frozen codes and scores it: the features' ceiling.

    It uses labels, so it is no unsupervised score; it says how much of the classes is linearly
    there to be found. The loss is the cross-entropy of every labelled pixel against its token's
    class scores, written per token as that of the class shares among its pixels.

    Args:
        encode: Images to (B, C, h, w) codes.
        train: Fresh walks over labelled training images.
        test: Labelled images to score.
        truth: Classes and the label that does not count.
        seed: Keys the order of the tokens.
        epochs: Walks over the training tokens.

    Returns:
        The scores with clusters = classes.

    Raises:
        RuntimeError: Several workers; the ceiling is computed by one.
    """
    if world_size() > 1:
        raise RuntimeError(f"the linear ceiling runs in one process, not in rank {rank()} of many")
    num_classes = len(truth.classes)
    codes, shares = _tokens(encode, train(), truth)
    mean, std = codes.mean(0), codes.std(0).clamp_min(1e-6)
    classifier = torch.nn.Linear(codes.shape[1], num_classes).to(codes.device)
    torch.nn.init.zeros_(classifier.weight)
    torch.nn.init.zeros_(classifier.bias)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=1e-2, weight_decay=1e-4)
    generator = shared_generator(seed, "linear")
    # A small set needs as many steps to converge as a large one.
    portion = min(4096, -(-len(codes) // 32))
    for _ in range(epochs):
        for chosen in torch.randperm(len(codes), generator=generator).split(portion):
            logits = classifier((codes[chosen] - mean) / std)
            loss = -(shares[chosen] * logits.log_softmax(1)).sum() / shares[chosen].sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    confusion = _linear_confusion(classifier, encode, test, truth, mean, std)
    return score(confusion, class_of=np.arange(num_classes))


@torch.no_grad()
def _linear_confusion(
    classifier: torch.nn.Linear,
    encode: Callable[[Images], Tensor],
    test: Iterable[LabelledImages],
    truth: GroundTruth,
    mean: Tensor,
    std: Tensor,
) -> np.ndarray:
    num_classes = len(truth.classes)
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for labelled in test:
        codes = (encode(labelled.images).permute(0, 2, 3, 1) - mean) / std
        predicted = label_map(classifier(codes).permute(0, 3, 1, 2), _size(labelled.labels))
        counts += confusion_matrix(
            predicted.cpu(), labelled.labels, num_classes, num_classes, truth.ignore_index
        ).numpy()
    return counts


@torch.no_grad()
def _tokens(
    encode: Callable[[Images], Tensor], batches: Iterable[LabelledImages], truth: GroundTruth
) -> tuple[Float[Tensor, "n C"], Float[Tensor, "n K"]]:
    """Collects codes and, for each, how many of its pixels have which class."""
    num_classes = len(truth.classes)
    codes, shares = [], []
    for labelled in batches:
        grid = encode(labelled.images)
        labels = labelled.labels.to(grid.device)
        valid = (labels >= 0) & (labels < num_classes) & (labels != truth.ignore_index)
        one_hot = F.one_hot(labels.where(valid, num_classes), num_classes + 1)[..., :-1]
        pooled = F.adaptive_avg_pool2d(one_hot.permute(0, 3, 1, 2).float(), _size(grid))
        codes.append(grid.permute(0, 2, 3, 1).flatten(0, 2))
        shares.append(pooled.permute(0, 2, 3, 1).flatten(0, 2))
    tokens, weights = torch.cat(codes), torch.cat(shares)
    used = weights.sum(1) > 0
    return tokens[used], weights[used]
