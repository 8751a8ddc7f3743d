"""What trials leave, in the sizes of real ones, from trials that learn nothing.

Images of 224 pixels with the classes of the built-in data; metrics and epochs as of STEGO; label
maps that agree with the truth as far as a trial's score says.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from usseg_ray.data.synthetic import CLASSES
from usseg_ray.scoring.arrays import write_counts, write_evaluation
from usseg_ray.scoring.evaluation import Evaluation, Examples, RefinementResult
from usseg_ray.scoring.metrics import MatchedCounts, score
from usseg_ray.scoring.patches import Patches
from usseg_ray.scoring.protocols import PLAIN

NUM_CLASSES = len(CLASSES)
EPOCHS, SCORED_EVERY = 20, 5
SIDE, SHOWN, IMAGES = 224, 7, 60
GRID, FIXED = 32, 32
LEARNT = (
    *("loss", "intra", "inter", "negative", "correspondence"),
    *("intra_similarity", "inter_similarity", "negative_similarity"),
    *("input_seconds", "train_seconds", "images_per_second"),
)
JUDGED = (
    *("unsup_acc", "boundary_f", "many_to_one_miou", "many_to_one_acc"),
    *("used_clusters", "largest_share", "cluster_entropy", "collapsed", "evaluated_images"),
    *("eval_seconds", "label_free_seconds", "label_free.stability", "label_free.entropy"),
    *("label_free.view_agreement", "label_free.view_information", "label_free.silhouette"),
    *("label_free.used_share", "label_free.modularity"),
)


def report_of(number: int, epoch: int) -> dict[str, float]:
    """Makes what a trial reports of an epoch: what it learnt, and scores every fifth epoch."""
    random = np.random.default_rng((number, epoch))
    found = {"epoch": float(epoch), **dict(zip(LEARNT, random.random(len(LEARNT)), strict=True))}
    if epoch % SCORED_EVERY == 0:
        found |= dict(zip(JUDGED, 100 * random.random(len(JUDGED)), strict=True))
        found |= {"collapsed": 0.0, "unsup_miou": score_of(number) * epoch / EPOCHS}
    return {name: float(value) for name, value in found.items()}


def score_of(number: int) -> float:
    """Says what a trial's last epoch scores, percent."""
    return 20.0 + 40.0 * float(np.random.default_rng(number).random())


def leave(number: int, folder: Path, *, counts: bool = False) -> None:
    """Leaves in a trial's folder what its last evaluation does.

    Args:
        number: Of the trial.
        folder: The trial's own.
        counts: Whether to leave what was counted in every image too, as a finalist does.
    """
    evaluation = _evaluation(number)
    write_evaluation(evaluation, folder)
    if counts:
        write_counts(evaluation, folder)


def _evaluation(number: int) -> Evaluation:
    random, (pixels, labels, fixed) = np.random.default_rng(number), _images()
    wrong = 1.0 - score_of(number) / 100
    clusters = _guess(random, labels, wrong)
    cells = NUM_CLASSES * clusters + labels
    confusion = np.bincount(cells.ravel(), minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, -1)
    sizes = random.multinomial(SIDE * SIDE, np.ones(NUM_CLASSES) / NUM_CLASSES, (3, IMAGES))
    patches = Patches(
        np.resize(pixels, (NUM_CLASSES, 8, 64, 64, 3)),
        np.zeros((NUM_CLASSES, 8), np.float32),
    )
    captions = [f"some: image {place}, mIoU {score_of(number):.1f}" for place in range(SHOWN)]
    return Evaluation(
        {PLAIN: RefinementResult(score(confusion), 50.0)},
        IMAGES,
        np.arange(IMAGES),
        MatchedCounts(sizes.min(0), sizes[1], sizes[2]),
        patches,
        Examples(list(pixels), list(labels), list(clusters), captions),
        _guess(random, fixed, wrong).astype(np.int16),
    )


@cache
def _images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes what is the same for all trials: images, their labels, and labels of fixed ones."""
    random = np.random.default_rng(0)
    labels = np.stack([_blocks(random, SIDE // 14, 14) for _ in range(SHOWN)])
    noise = random.integers(0, 64, (SHOWN, SIDE, SIDE, 3), np.uint8)
    pixels = (16 * labels[..., None] + noise).astype(np.uint8)
    return pixels, labels, np.stack([_blocks(random, GRID // 4, 4) for _ in range(FIXED)])


def _blocks(random: np.random.Generator, count: int, side: int) -> np.ndarray:
    """Draws a label map of square regions."""
    return np.kron(random.integers(0, NUM_CLASSES, (count, count)), np.ones((side, side), np.int64))


def _guess(random: np.random.Generator, labels: np.ndarray, wrong: float) -> np.ndarray:
    """Renames the classes of label maps, and draws a share of their squares of 4 pixels anew."""
    count, height, width = labels.shape
    squares = random.integers(0, NUM_CLASSES, (count, height // 4, width // 4))
    squares[random.random(squares.shape) >= wrong] = -1
    drawn = squares.repeat(4, 1).repeat(4, 2)
    return np.where(drawn < 0, random.permutation(NUM_CLASSES)[labels], drawn)


def scores_of_test(number: int, seed: int) -> dict[str, float]:
    """Makes what a finalist's run scores on the test split."""
    random = np.random.default_rng((number, seed, EPOCHS))
    names = ("unsup_acc", "many_to_one_miou", "boundary_f", "linear_miou", "linear_acc")
    found: dict[str, Any] = dict(zip(names, 100 * random.random(len(names)), strict=True))
    found |= {"unsup_miou": score_of(number) + random.normal(), "collapsed": 0.0}
    return {f"test.{name}": float(value) for name, value in found.items()}
