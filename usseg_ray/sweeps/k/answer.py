"""Answers `tune --question k`: what was measured of every K, which to take, and how it looks.

It reads what the trials left, and leaves `k/METHOD.json`, a curve and a picture of the label maps
of every K that was tried in the sweep's folder.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from scipy.optimize import linear_sum_assignment

from usseg_ray.core.records import DamagedError, write_json
from usseg_ray.pictures.palettes import colour_for
from usseg_ray.scoring.arrays import read_evaluation
from usseg_ray.scoring.objective import CRITERIA, MIOU, STABILITY, WITHOUT_LABELS, digits, short
from usseg_ray.scoring.partitions import contingency
from usseg_ray.sweeps.k.trials import (
    CLUSTERS,
    FEWEST_SEEDS,
    Point,
    Recommendation,
    curve,
    of_method,
    pictured,
    recommend,
)
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.trial import ENDED, Trial

ANSWER = "k"
"""Folder of the answers in a sweep's own."""


def maps_path(run: Path, method: str) -> Path:
    """Says where the picture of a method's label maps under every K lies, if there is one."""
    return run / ANSWER / f"{method}-maps.png"


@dataclass(frozen=True)
class KAnswer:
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

    def verdict(self) -> str:
        """Says what to take, how sure that is, and what speaks against it."""
        if not self.advice:
            return (
                f"{self.method}: no K stands out, as no two ended with the same seed or all scored "
                "alike. --resume goes on with what did not end."
            )
        first, *others = self.advice
        said = [_choice(self.method, first), *_doubts(first)]
        against = [other for other in others if not first.low <= other.k <= first.high]
        if against:
            what = ", ".join(f"{short(other.metric)} alone takes {other.k}" for other in against)
            said.append(f"The criteria disagree: {what}.")
        elif others:
            what = " and ".join(short(other.metric) for other in others)
            said.append(f"{what} {'agrees' if len(others) == 1 else 'agree'}.")
        return " ".join(said)


def answer(trials: Iterable[Trial], method: str, objective: str) -> KAnswer:
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
    return KAnswer(method, points, [advice for advice in found if advice is not None])


def _choice(method: str, advice: Recommendation) -> str:
    places, spread = digits(advice.metric), advice.deviation
    mean = f"{short(advice.metric)} {advice.mean:.{places}f}"
    measured = mean + (f" ± {spread:.{places}f}" if spread else "")
    seeds = f"{advice.seeds} seeds" if advice.seeds > 1 else "one seed"
    share = "" if advice.share is None else f", best in {100 * advice.share:.0f} % of draws"
    clusters = f"{advice.k} clusters"
    if advice.low < advice.high:
        clusters = f"between {advice.low} and {advice.high} clusters; {advice.k} chosen"
    return f"{method}: {clusters} ({measured}, {seeds}{share})."


def _doubts(advice: Recommendation) -> list[str]:
    said = []
    if advice.seeds < FEWEST_SEEDS:
        said.append(f"Too few seeds to say how sure: --seeds {FEWEST_SEEDS}.")
    if advice.edge:
        more = "more" if advice.edge == "largest" else "fewer"
        said.append(
            f"{advice.k} is the {advice.edge} K tried: {more} may be better "
            "(--space with a range of num_clusters)."
        )
    if advice.left_out:
        left = ", ".join(map(str, advice.left_out))
        said.append(f"Left out, as trials of theirs did not end: K = {left}.")
    return said


def chosen(answers: Iterable[KAnswer], trials: Iterable[Trial], objective: str) -> Trial | None:
    """Finds the trial whose model is to be kept: of the best method at its K, the best seed.

    Args:
        answers: One a method.
        trials: Of all methods.
        objective: What the sweep ranks by.
    """
    heights = {
        (found.method, found.advice[0].k): found.advice[0].mean
        for found in answers
        if found.advice and found.advice[0].metric == objective
    }
    if not heights:
        return None
    best = max(heights, key=lambda which: heights[which])
    able = [
        trial
        for trial in trials
        if (trial.method, int(trial.settings[CLUSTERS])) == best
        and trial.status in ENDED
        and trial.checkpoint is not None
    ]
    return max(able, key=lambda trial: trial.metrics.get(objective, -1.0), default=None)


def answers(methods: Iterable[str], trials: list[Trial], objective: str) -> list[KAnswer]:
    """Reads off how many clusters each method of a sweep should have."""
    return [answer(of_method(trials, method), method, objective) for method in methods]


def write_answers(
    found: list[KAnswer], trials: list[Trial], objective: str, storage: Storage
) -> list[str]:
    """Writes how many clusters each method of a sweep should have, and says it in sentences."""
    for one in found:
        write_answer(one, of_method(trials, one.method), storage.folder)
    storage.push(ANSWER)
    best = chosen(found, trials, objective)
    several = [f"Chosen: {best.method}."] if best is not None and len(found) > 1 else []
    return [*(one.verdict() for one in found), *several]


def write_answer(found: KAnswer, trials: Iterable[Trial], folder: Path) -> None:
    """Writes an answer as JSON, a curve and a picture.

    Args:
        found: The answer.
        trials: The method's.
        folder: The sweep's folder, with the trials' own in it.
    """
    from usseg_ray.pictures.charts import k_curves  # noqa: PLC0415 (matplotlib: not for a dry run)
    from usseg_ray.pictures.mosaic import save  # noqa: PLC0415

    home = folder / ANSWER
    write_json(home / f"{found.method}.json", asdict(found) | {"verdict": found.verdict()})
    if not found.advice:
        return
    best = found.advice[0].k
    curves = {advice.metric: _curve(found.points, advice.metric) for advice in found.advice}
    save(k_curves(curves, best, found.method), home / f"{found.method}.png")
    maps = [(k, _arrays(folder / trial.name)) for k, trial in pictured(trials).items()]
    shown = [(k, arrays) for k, arrays in maps if arrays is not None]
    if shown:
        _draw(shown, best, maps_path(folder, found.method))


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
    from usseg_ray.pictures.mosaic import panels, save  # noqa: PLC0415

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
