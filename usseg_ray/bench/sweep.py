"""What a sweep takes with stored features, where that time goes, and what it would take without.

Off an image's path. Sweeps run as a user's do, with Ray and MLflow, on a ViT-S/16 of random
weights. Without a store a sweep of that size takes hours: two trials of one epoch are timed, and
the other epochs are added at the speed of the faster one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from usseg_ray.bench.inputs import (
    CAMVID_SPLITS,
    random_backbone,
    scratch,
    storable,
    write_generated_set,
)
from usseg_ray.bench.meter import Measure, environment_variables, faster_arithmetic
from usseg_ray.core.errors import UserError
from usseg_ray.core.stopwatch import Seconds, timed
from usseg_ray.data.library import find_prepared
from usseg_ray.features.store.folder import FOLDER, LIMIT
from usseg_ray.features.store.store import SHARED
from usseg_ray.sweeps.plan import make_plan
from usseg_ray.sweeps.request import Request, with_spaces
from usseg_ray.sweeps.sweep import run_sweep
from usseg_ray.sweeps.tables import Outcome

LEAST_GAIN = 8.0
"""How many times less wall time a sweep takes with a store, at least."""
SMALL_SPLITS = {"train": 24, "val": 8, "test": 8}

_METHODS = ("stego", "acseg")


@dataclass(frozen=True)
class SweepCase:
    """A sweep to be timed.

    Attributes:
        method: Of its trials.
        trials: How many.
        epochs: Of each.
        stored: Whether features are stored, in a store that is empty at its start.
    """

    method: str
    trials: int
    epochs: int
    stored: bool


@dataclass(frozen=True)
class SweepTime:
    """What a sweep took.

    Attributes:
        wall: Seconds, with the start and end of Ray.
        outcome: What it found, with the seconds of its parts.
    """

    wall: float
    outcome: Outcome


def sweep_bars(*, full: bool) -> Iterator[Measure]:
    """Times sweeps, in a store of their own.

    Args:
        full: Whether to time 16 trials of 10 epochs on CamVid against no store, which takes long,
            instead of two trials of two epochs on a few images.

    Yields:
        Wall time, what it is made of and, where `full`, what it would be without a store.

    Raises:
        UserError: A trial failed.
    """
    with scratch() as folder:
        precision = faster_arithmetic(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        settings = _settings(folder, precision)
        if not full:
            write_generated_set(folder / "set", SMALL_SPLITS, labelled=True)
            sweep = SweepCase("stego", 2, 2, stored=True)
            yield from _parts("stego, 2 trials", time_sweep(sweep, folder / "set", settings))
            return
        data, said = _camvid(folder)
        for method in _METHODS:
            whole = SweepCase(method, 16, 10, stored=True)
            excerpt = SweepCase(method, 2, 1, stored=False)
            stored = time_sweep(whole, data, settings)
            without = time_sweep(excerpt, data, settings)
            name = f"{method}, 16 trials of 10 epochs"
            yield Measure(
                "sweep",
                f"{name}, {said}, {precision}, features stored",
                stored.wall,
                "s",
                "no store: 2 trials of 1 epoch timed, the other epochs added",
                extrapolated(without, whole, excerpt, stored.outcome.concurrent),
                1 / LEAST_GAIN if method == _METHODS[0] else None,
            )
            yield from _parts(name, stored)


def time_sweep(sweep: SweepCase, data: str | Path, settings: Mapping[str, Any]) -> SweepTime:
    """Runs a sweep as `tune` does, in folders of its own.

    Args:
        sweep: Which.
        data: The prepared set.
        settings: Dotted assignments.

    Returns:
        What it took.

    Raises:
        UserError: A trial failed.
    """
    seconds: Seconds = {}
    own = {
        "train.epochs": sweep.epochs,
        "resources.features": "cache" if sweep.stored else "recompute",
    }
    with scratch() as folder:
        request = Request(
            methods=with_spaces([sweep.method], None),
            data=str(data),
            assigned={**settings, **own},
            num_samples=sweep.trials,
            search="random",
            scheduler="none",
            finalists=1,
            seeds=1,
            tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
            key="bench",
        )
        # No place that is shared, and no limit: the store is this sweep's alone.
        apart = {FOLDER: str(folder / "store"), SHARED: "", LIMIT: ""}
        (folder / "run").mkdir()
        with environment_variables(apart), timed(seconds, "wall"):
            outcome = run_sweep(make_plan(request), folder / "run", Console(quiet=True))
    failed = [trial for trial in outcome.trials if trial.status != "FINISHED"]
    if failed:
        raise UserError(f"{failed[0].name} of the benchmark's sweep failed: {failed[0].reason}")
    return SweepTime(seconds["wall"], outcome)


def extrapolated(timing: SweepTime, whole: SweepCase, excerpt: SweepCase, concurrent: int) -> float:
    """Adds to a short sweep's wall time the epochs that a long one has more.

    The starts of the other trials, and what they do once, are left out, and all epochs are taken
    to be as fast as the fastest one: the long sweep would take at least this.

    Args:
        timing: Of the short sweep.
        whole: The long one.
        excerpt: The short one.
        concurrent: Trials of the long one at a time.

    Returns:
        Seconds.
    """
    metrics = [trial.metrics for trial in timing.outcome.trials]
    epoch = min(one["train_seconds"] + one["eval_seconds"] for one in metrics)
    more = whole.trials * whole.epochs - excerpt.trials * excerpt.epochs
    return timing.wall + more / concurrent * epoch


def _parts(name: str, timing: SweepTime) -> Iterator[Measure]:
    """Says where a sweep's time went, what took none left out, and that of its trials' epochs."""
    seconds = timing.outcome.seconds
    parts = {**seconds, "the rest": timing.wall - sum(seconds.values())}
    for what, part in parts.items():
        if part < timing.wall / 1000:
            continue
        yield Measure("sweep", f"{name}: {what}", part, "s", "the whole sweep", timing.wall)
    epochs = {"batches": 0.0, "forward, backward, step": 0.0, "clustering and scoring": 0.0}
    for trial in timing.outcome.trials:
        last = trial.metrics
        epochs["batches"] += trial.epochs * last["input_seconds"]
        learning = last["train_seconds"] - last["input_seconds"]
        epochs["forward, backward, step"] += trial.epochs * learning
        epochs["clustering and scoring"] += trial.epochs * last["eval_seconds"]
    total = sum(epochs.values())
    for what, part in epochs.items():
        yield Measure("sweep", f"{name}, epochs: {what}", part, "s", "epochs of all trials", total)


def _settings(folder: Path, precision: str) -> dict[str, Any]:
    """Gathers what all sweeps have in common.

    Fixed crops, no views, and epochs of one pass over the images.
    """
    return {
        **storable(random_backbone(folder)),
        "train.steps_per_epoch": None,
        "resources.num_workers": 0,
        "resources.precision": precision,
    }


def _camvid(folder: Path) -> tuple[str, str]:
    """Finds CamVid, or generates as many images of its size."""
    try:
        return find_prepared("camvid"), "CamVid"
    except UserError:
        write_generated_set(folder / "set", CAMVID_SPLITS, labelled=True)
        return str(folder / "set"), "701 generated images of CamVid's size"
