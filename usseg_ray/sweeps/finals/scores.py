"""The numbers that count: a sweep's best trials, trained with several seeds, scored once.

After the trials were ranked on the selection split, the best of them become finalists. Each is
trained again with other seeds, and every one of these runs is scored on the untouched split. What
is scored stays in the sweep's folder, so that a resumed sweep scores nothing twice.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import ray

from usseg_ray.cluster.ray_stream import users_mistakes
from usseg_ray.core.records import DamagedError, read_json, write_json
from usseg_ray.core.table import Spread
from usseg_ray.scoring.arrays import read_counts
from usseg_ray.scoring.significance import Difference, own_half_width, paired_bootstrap
from usseg_ray.sweeps.finals.chosen import again, ended_runs, seeds_of
from usseg_ray.sweeps.plan import Plan
from usseg_ray.trials import worker
from usseg_ray.trials.job import FinalScoring
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.tasks import as_task
from usseg_ray.trials.trial import (
    FINALISTS,
    Trial,
    load_trials,
    noted_test_scores,
    trial_name,
)

FINAL_FILE = "final.json"


@dataclass(frozen=True)
class Finalist:
    """One trial's settings, trained with several seeds.

    Attributes:
        trial: The sweep's trial.
        runs: Seed -> the run that was trained with it to its end.
        scores: Seed -> metrics on the test split, in percent.
        behind: How far the first finalist is before it; `None` for the first one.
        half_width: Of the first one, half of the 95 % interval of its mean mIoU, percent; `None`
            where there are too few seeds.
    """

    trial: Trial
    runs: dict[int, Trial]
    scores: dict[int, dict[str, float]]
    behind: Difference | None = None
    half_width: float | None = None

    @property
    def selection(self) -> dict[int, float]:
        """Seed -> what trials are ranked by, on the selection split."""
        return {seed: run.score or 0.0 for seed, run in self.runs.items()}

    def spread(self, metric: str) -> Spread | None:
        """Summarises a test metric over the seeds, if they have it."""
        return Spread.of([found[metric] for found in self.scores.values() if metric in found])

    def metrics(self) -> dict[str, float]:
        """Names the figures as they are logged: means, deviations and the distance behind."""
        names = dict.fromkeys(name for scores in self.scores.values() for name in scores)
        spreads = {name: spread for name in names if (spread := self.spread(name))}
        found: dict[str, float | None] = {f"test.{n}": one.mean for n, one in spreads.items()}
        both = (name for name in ("unsup_miou", "unsup_acc") if name in spreads)
        found |= {f"test.{name}_std": spreads[name].deviation for name in both}
        if self.behind is not None:
            found |= {
                "test.behind": self.behind.mean,
                "test.behind_low": self.behind.low,
                "test.behind_high": self.behind.high,
            }
        return {name: value for name, value in found.items() if value is not None}


def spread_in_words(spread: Spread | None) -> str:
    """Writes a mean over seeds, and of how many, for a narrow column."""
    if spread is None:
        return ""
    around = "" if spread.deviation is None else f" ± {spread.deviation:.2f}"
    return f"{spread.mean:.2f}{around} ({spread.count})"


def final_folder(folder: Path, trial: Trial, seed: int) -> Path:
    """Says where the test evaluation of a finalist's run lies."""
    return folder / _target(trial_name(trial.index, seed))


def score_finalists(
    plan: Plan, chosen: list[Trial], num_seeds: int, storage: Storage, concurrent: int
) -> list[Finalist]:
    """Scores what runs of the finalists have no test score yet: once in the life of a sweep.

    Most have it from the process that trained them; see `scorings`.

    Args:
        plan: The sweep's plan, on its cluster.
        chosen: The finalists.
        num_seeds: Seeds of each.
        storage: The sweep's folder.
        concurrent: Processes that score at a time.

    Returns:
        The finalists by their mean score on the selection split, best first; a run that did not
        come to its end is left out.
    """
    folder = storage.folder
    runs = ended_runs(chosen, num_seeds, load_trials(folder / FINALISTS))
    named = {trial_name(trial.index, seed): (trial, seed, run) for trial, seed, run in runs}
    scored = still_scored(named, storage)
    asked = [_scoring(plan, *named[name]) for name in named if name not in scored]
    for task in _start(asked, storage.place, concurrent):
        with users_mistakes():
            ray.get(task)
    if asked:
        scored = still_scored(named, storage)
    known = load_final(folder)
    if (whole := known | scored) != known:
        save_final(whole, folder)
        storage.push(FINAL_FILE)
    found = []
    for trial in chosen:
        own = {seed: run for of, seed, run in runs if of is trial}
        if own:
            scores = {seed: scored[trial_name(trial.index, seed)] for seed in own}
            found.append(Finalist(trial, own, scores))
    return _compared(sorted(found, key=lambda f: -fmean(f.selection.values())), folder)


def save_final(scored: Mapping[str, dict[str, float]], folder: Path) -> None:
    """Writes the test scores of finalists' runs, by name, into a sweep's folder."""
    write_json(folder / FINAL_FILE, scored)


def load_final(folder: Path) -> dict[str, dict[str, float]]:
    """Reads what `save_final` wrote; empty where that is nothing, or damaged."""
    try:
        return read_json(folder / FINAL_FILE, dict[str, dict[str, float]], "They are scored again.")
    except (FileNotFoundError, DamagedError):
        return {}


def still_scored(names: Iterable[str], storage: Storage) -> dict[str, dict[str, float]]:
    """Reads which finalists' runs are scored, but for those whose counts are damaged since.

    Args:
        names: Of the runs.
        storage: The sweep's folder.

    Returns:
        Test scores by the run's name.
    """
    wanted = list(names)
    storage.fetch(*(_target(name) for name in wanted))
    known, scored = load_final(storage.folder), dict[str, dict[str, float]]()
    for name in wanted:
        target = storage.folder / _target(name)
        with suppress(FileNotFoundError):
            try:
                read_counts(target)
            except DamagedError:
                continue
        if found := noted_test_scores(target) or known.get(name):
            scored[name] = found
    return scored


def scorings(
    plan: Plan, chosen: Iterable[Trial], num_seeds: int, storage: Storage
) -> dict[str, list[FinalScoring]]:
    """Says what the processes that train finalists again score on the test split afterwards.

    Each scores the run that it trained, and the first one of a finalist also the trial that became
    it, so that no further process has to load everything.

    Args:
        plan: The sweep's plan, on its cluster.
        chosen: The finalists.
        num_seeds: Seeds of each.
        storage: The sweep's folder.

    Returns:
        What has no score yet, by the name of the run that is trained before it.
    """
    found = dict[str, list[FinalScoring]]()
    for trial in chosen:
        seeds = {trial_name(trial.index, seed): seed for seed in seeds_of(trial, num_seeds)}
        trained, scored = list(again([trial], num_seeds)), still_scored(seeds, storage)
        for name, seed in seeds.items():
            if name in scored or not trained:
                continue
            run = replace(trial, seed=seed, checkpoint=None) if name in trained else trial
            after = name if name in trained else trained[0]
            found.setdefault(after, []).append(_scoring(plan, trial, seed, run))
    return found


def _start(asked: list[FinalScoring], place: str, concurrent: int) -> list[ray.ObjectRef]:
    """Shares the work among as many tasks as run at a time: each loads PyTorch first."""
    shares = [asked[start::concurrent] for start in range(min(concurrent, len(asked)))]
    return [as_task(worker.final_scores, share[0].job).remote(share, place) for share in shares]


def _target(name: str) -> str:
    """Says where the test evaluation of a finalist's run lies in a sweep's folder."""
    return f"{FINALISTS}/{name}/test"


def _scoring(plan: Plan, trial: Trial, seed: int, run: Trial) -> FinalScoring:
    return FinalScoring(
        plan.job(trial.method, trial.sample, seed),
        run.place,
        _target(trial_name(trial.index, seed)),
        Path(run.checkpoint).name if run.checkpoint else "",
    )


def _compared(finalists: list[Finalist], folder: Path) -> list[Finalist]:
    """Says of each but the first how far it is behind, of the first how well it is known."""
    counts = [
        [read_counts(final_folder(folder, f.trial, seed)) for seed in f.scores] for f in finalists
    ]
    return [
        Finalist(
            finalist.trial,
            finalist.runs,
            finalist.scores,
            paired_bootstrap(counts[0], counts[place]) if place else None,
            None if place else own_half_width(counts[0]),
        )
        for place, finalist in enumerate(finalists)
    ]
