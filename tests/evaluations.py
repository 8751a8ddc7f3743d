"""Evaluations of a few small images, for tests of what is kept and drawn of them."""

from pathlib import Path

import numpy as np

from usseg_ray.scoring.evaluation import Evaluation, Examples, GroundTruth, RefinementResult
from usseg_ray.scoring.metrics import MatchedCounts, score
from usseg_ray.scoring.patches import Patches
from usseg_ray.scoring.protocols import PLAIN, Refinement

TRUTH = GroundTruth(("sky", "road", "rare"), 255)
CONFUSION = np.array([[0, 9, 0], [5, 1, 0], [0, 0, 0], [2, 3, 0]], np.int64)

COUNTS = MatchedCounts(*np.arange(18).reshape(3, 2, 3))


def examples(*, labelled: bool = True, count: int = 2) -> Examples:
    random = np.random.default_rng(0)
    found = Examples()
    for number in range(count):
        found.captions.append(f"best: image {number}")
        found.pixels.append(random.integers(0, 256, (16, 20, 3), np.uint8))
        found.clusters.append(random.integers(0, 4, (16, 20)))
        if labelled:
            found.labels.append(random.choice([0, 1, 255], (16, 20)))
    return found


def evaluation_of(results: dict[Refinement, RefinementResult], shown: Examples) -> Evaluation:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (4, 3, 32, 32, 3), np.uint8)
    patches = Patches(pixels, np.where(np.eye(4, 3) > 0, 0.5, -np.inf).astype(np.float32))
    return Evaluation(results, 2, np.arange(2), COUNTS, patches, shown)


def scored(confusion: np.ndarray = CONFUSION, count: int = 2) -> Evaluation:
    return evaluation_of({PLAIN: RefinementResult(score(confusion), 50.0)}, examples(count=count))


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
