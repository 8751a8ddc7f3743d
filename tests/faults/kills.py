"""Processes that are killed, stopped or interrupted while a sweep runs."""

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil

from tests.faults.checks import lost, same_end, twice
from tests.faults.matrix import Found, fault
from tests.faults.scenario import Life, Sweep, named, shared_ray, until

TRAINING = ("an epoch of the first trial", "two of it", "an epoch of the second trial")
RUNNING = ("begun", *TRAINING)


def settled(sweep: Sweep, before: dict[str, dict[str, object]], recovery_s: float) -> Found:
    """Compares the end of a sweep with that of the undisturbed one."""
    same_end(sweep)
    return Found(lost(before, sweep), twice(sweep.store), recovery_s)


def broken_off(random: Random, root: Path, break_off: Callable[[Life], object]) -> Found:
    """Ends a sweep at any moment, then goes on with it."""
    sweep = Sweep(root)
    life = sweep.begin()
    sweep.wait(life, random)
    before, now = sweep.finished(), time.monotonic()
    break_off(life)
    life.end(60)
    return settled(sweep, before, sweep.go_on(now))


@fault(
    "driver-killed",
    "SIGKILL of the driver at any moment; gone on with, it ends the same",
    within=shared_ray,
)
def driver_killed(random: Random, root: Path) -> Found:
    return broken_off(random, root, lambda life: life.send(signal.SIGKILL))


@fault(
    "driver-terminated", "SIGTERM of the driver in any phase, finals included", within=shared_ray
)
def driver_terminated(random: Random, root: Path) -> Found:
    return broken_off(random, root, lambda life: life.send(signal.SIGTERM))


@fault("driver-interrupted-twice", "Ctrl-C twice, up to two seconds apart", within=shared_ray)
def driver_interrupted_twice(random: Random, root: Path) -> Found:
    def twice_interrupted(life: Life) -> None:
        life.send(signal.SIGINT)
        time.sleep(random.uniform(0.05, 2))
        life.send(signal.SIGINT)

    return broken_off(random, root, twice_interrupted)


def stopped(processes: list[psutil.Process], seconds: float) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.suspend()
    time.sleep(seconds)
    for process in processes:
        with suppress(psutil.Error):
            process.resume()


def lives_through(
    random: Random,
    sweep: Sweep,
    happen: Callable[[Life], object],
    moments: Sequence[str] = RUNNING,
) -> Found:
    """Has something happen, at a moment that is drawn, to a sweep that ends by itself."""
    life = sweep.begin()
    sweep.wait(life, random, moments)
    before, kept, now = sweep.finished(), sweep.progress(), time.monotonic()
    happen(life)
    until(lambda: sweep.progress() > kept or life.ended(), "something new")
    recovery = time.monotonic() - now
    code = life.end()
    assert code == 0, f"it ended with {code}: {life.said()[-500:]}"
    return settled(sweep, before, recovery)


@fault("driver-stopped", "SIGSTOP of the driver for one to eight seconds", within=shared_ray)
def driver_stopped(random: Random, root: Path) -> Found:
    def stop(life: Life) -> None:
        stopped([psutil.Process(life.pid)], random.uniform(1, 8))

    return lives_through(random, Sweep(root), stop)


@fault("trial-killed", "SIGKILL of a trial's process", within=shared_ray)
def trial_killed(random: Random, root: Path) -> Found:
    def kill(life: Life) -> None:
        for process in named("ImplicitFunc"):
            process.kill()

    return lives_through(random, Sweep(root), kill, TRAINING)


@fault("trial-stopped", "SIGSTOP of a trial's process for one to eight seconds", within=shared_ray)
def trial_stopped(random: Random, root: Path) -> Found:
    def stop(life: Life) -> None:
        stopped(named("ImplicitFunc"), random.uniform(1, 8))

    return lives_through(random, Sweep(root), stop, TRAINING)
