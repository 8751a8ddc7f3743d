"""Answers `tune --question k`: what was measured of every K, which to take, and how it looks.

It reads what the trials left, and leaves `k/METHOD.json`, a curve and a picture of the label maps
of K - 1, K and K + 1 in the sweep's folder.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from scipy.optimize import linear_sum_assignment

from usseg_ray.core.records import DamagedError, write_json
from usseg_ray.pictures.charts import k_curves
from usseg_ray.pictures.mosaic import panels, save
from usseg_ray.pictures.palettes import colour_for
from usseg_ray.scoring.arrays import read_evaluation
from usseg_ray.scoring.objective import CRITERIA, MIOU, STABILITY, WITHOUT_LABELS, digits, short
from usseg_ray.scoring.partitions import contingency
from usseg_ray.sweeps.k_trials import Point, Recommendation, curve, pictured, recommend
from usseg_ray.trials.trial import Trial

ANSWER = "k"
"""Folder of the answers in a sweep's own."""


@dataclass(frozen=True)
class Answer:
    """How many clusters a method should have on a data set.

    Attributes:
        method: The method.
        points: What was measured of every K.
        advice: The K to take by the sweep's objective, and by what stands beside it: the default
            objective without labels, and stability.
    """

    method: str
    points: list[Point]
    advice: list[Recommendation]

    def sentences(self) -> list[str]:
        """Says it in words, one sentence a recommendation."""
        return [_sentence(self.method, advice, self.points) for advice in self.advice]


def answer(trials: Iterable[Trial], method: str, objective: str) -> Answer:
    """Reads the answer off a method's trials.

    Args:
        trials: Of one method, in which K and the seed differ.
        method: Its name.
        objective: What the sweep ranks by.
    """
    rows = list(trials)
    found = (
        recommend(rows, metric) for metric in dict.fromkeys((objective, WITHOUT_LABELS, STABILITY))
    )
    points = curve(rows, (MIOU, *CRITERIA))
    return Answer(method, points, [advice for advice in found if advice is not None])


def _sentence(method: str, advice: Recommendation, points: list[Point]) -> str:
    point = next(point for point in points if point.k == advice.k)
    places = digits(advice.metric)
    mean = f"{short(advice.metric)} {point.means[advice.metric]:.{places}f}"
    spread = point.deviations.get(advice.metric)
    said = f"{method}: K = {advice.k} by {mean}" + (f" ± {spread:.{places}f}" if spread else "")
    if advice.seeds < 2:
        return f"{said}; one seed says nothing of its uncertainty."
    interval = f"{advice.low} to {advice.high}" if advice.low < advice.high else str(advice.low)
    return (
        f"{said}; the best of {100 * advice.share:.0f} % of draws of {advice.seeds} seeds, "
        f"90 % of which have K = {interval} best."
    )


def write_answer(found: Answer, trials: Iterable[Trial], folder: Path) -> None:
    """Writes an answer as JSON, a curve and a picture.

    Args:
        found: The answer.
        trials: The method's.
        folder: The sweep's folder, with the trials' own in it.
    """
    home = folder / ANSWER
    write_json(home / f"{found.method}.json", asdict(found))
    if not found.advice:
        return
    best = found.advice[0].k
    curves = {advice.metric: _curve(found.points, advice.metric) for advice in found.advice}
    save(k_curves(curves, best, found.method), home / f"{found.method}.png")
    maps = [(k, _arrays(folder / trial.name)) for k, trial in pictured(trials, best).items()]
    shown = [(k, arrays) for k, arrays in maps if arrays is not None]
    if shown:
        _draw(shown, best, home / f"{found.method}-maps.png")


def _curve(points: list[Point], metric: str) -> list[tuple[int, float, float]]:
    return [
        (point.k, point.means[metric], point.deviations.get(metric, 0.0))
        for point in points
        if metric in point.means
    ]


def _arrays(folder: Path) -> dict[str, np.ndarray] | None:
    try:
        return read_evaluation(folder, {"clusters": 3})
    except DamagedError:
        return None


def _draw(shown: list[tuple[int, dict[str, np.ndarray]]], best: int, path: Path) -> None:
    """Draws the images that all trials kept, each K's clusters in the colours of the best K's."""
    base = next((arrays for k, arrays in shown if k == best), shown[0][1])
    columns = [_common(base, arrays) for _, arrays in shown]
    both = sorted(set.intersection(*(set(column) for column in columns)))
    if not both:
        return
    own = base["clusters"][both]
    maps = [
        aligned(arrays["clusters"][[column[row] for row in both]], own)
        for (_, arrays), column in zip(shown, columns, strict=True)
    ]
    names = [str(index) for index in range(int(max(ids.max() for ids in maps)) + 1)]
    titles = [f"K = {k}" for k, _ in shown]
    save(panels(base["pixels"][both], maps, titles, palette=colour_for(names)), path)


def _common(base: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[int, int]:
    """Finds the images of one trial among those of another: row -> row."""
    return {
        row: place
        for row, pixels in enumerate(base["pixels"])
        for place, seen in enumerate(other["pixels"])
        if np.array_equal(pixels, seen)
    }


def aligned(clusters: Int64[np.ndarray, "n H W"], base: Int64[np.ndarray, "n H W"]) -> np.ndarray:
    """Renames clusters after those of another clustering that they share most pixels with.

    Args:
        clusters: (n, H, W) to rename.
        base: (n, H, W) of the same images.

    Returns:
        (n, H, W); clusters without a partner have numbers above those of `base`.
    """
    rows, columns = torch.from_numpy(clusters).flatten(), torch.from_numpy(base).flatten()
    table = contingency(rows, columns).numpy()
    names = np.full(len(table), -1)
    one, other = linear_sum_assignment(table, maximize=True)
    names[one] = other
    spare = names < 0
    names[spare] = table.shape[1] + np.arange(spare.sum())
    return np.asarray(names[clusters])
