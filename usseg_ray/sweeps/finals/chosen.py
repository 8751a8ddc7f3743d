"""Which trials become finalists, and which runs with further seeds each of them takes."""

import math
from collections.abc import Iterable, Mapping

from usseg_ray.sweeps.plan import Draws
from usseg_ray.trials.trial import Trial, best_of_each, number_and_seed, ranked, trial_name


def pick(trials: Iterable[Trial], count: int) -> list[Trial]:
    """Chooses the finalists: each method's best trial as far as they go, then the next best.

    Args:
        trials: The sweep's trials.
        count: How many to choose.

    Returns:
        Trials that can be scored and did not fail, best first.
    """
    able = [t for t in ranked(trials) if has_state(t) and t.status != "FAILED"]
    first = best_of_each(able)
    others = [trial for trial in able if trial not in first]
    return ranked([*first, *others][:count])


def certain(trials: Iterable[Trial], open_ones: Mapping[str, str], count: int) -> list[Trial]:
    """Finds the finalists that stay it however the trials end that still run or wait.

    Args:
        trials: Those that have ended.
        open_ones: Name of each other trial -> its method.
        count: Of finalists.

    Returns:
        What `pick` chooses where each of the others is better than all that have ended.
    """
    ended = list(trials)
    better = [_unbeaten(name, method) for name, method in open_ones.items()]
    return [trial for trial in pick([*ended, *better], count) if trial.name not in open_ones]


def _unbeaten(name: str, method: str) -> Trial:
    metrics = {Trial.objective: math.inf}
    return Trial(number_and_seed(name)[0], method, {}, {}, 1, "FINISHED", metrics, name)


def has_state(trial: Trial) -> bool:
    """Tells whether a trial can be scored again."""
    return trial.score is not None and trial.checkpoint is not None


def seeds_of(trial: Trial, count: int) -> list[int]:
    """Says which seeds a finalist has: its own, then those that follow."""
    own: int = trial.settings["seed"]
    return list(range(own, own + count))


def again(finalists: list[Trial], num_seeds: int) -> Draws:
    """Plans what must be trained: nothing for a trial's own seed, unless it was stopped early.

    Args:
        finalists: Chosen trials.
        num_seeds: Of each.

    Returns:
        The runs, whose names have their seeds.
    """
    return {
        trial_name(trial.index, seed): (trial.method, trial.sample)
        for trial in finalists
        for seed in seeds_of(trial, num_seeds)
        if seed != trial.settings["seed"] or trial.status != "FINISHED"
    }


def ended_runs(
    chosen: Iterable[Trial], num_seeds: int, trained: Iterable[Trial]
) -> list[tuple[Trial, int, Trial]]:
    """Finds what is to be scored: only runs that came to their end count.

    Args:
        chosen: The finalists.
        num_seeds: Seeds of each.
        trained: What was trained again for them.

    Returns:
        Finalist, seed, and the run with this seed.
    """
    named = {run.name: run for run in trained}
    found = []
    for trial in chosen:
        for seed in seeds_of(trial, num_seeds):
            own = trial if seed == trial.settings["seed"] else None
            run = named.get(trial_name(trial.index, seed), own)
            if run is not None and run.status == "FINISHED" and has_state(run):
                found.append((trial, seed, run))
    return found
