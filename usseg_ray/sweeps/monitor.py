"""Between Ray Tune and everyone who wants to know: records, MLflow and the screen.

A Tune callback in the driver process, the only process that writes records and opens MLflow.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import AUTO_RESULT_KEYS, DEBUG_METRICS

from usseg_ray.cluster.capacity import lacking
from usseg_ray.core.config import flatten
from usseg_ray.core.errors import UserError, redacted
from usseg_ray.core.files import write_whole
from usseg_ray.ops.kmeans import available_backend
from usseg_ray.pictures.trial_page import try_to_draw
from usseg_ray.scoring.arrays import ARRAYS
from usseg_ray.scoring.evaluation import GroundTruth
from usseg_ray.scoring.objective import MIOU
from usseg_ray.sweeps.plan import planned_epochs
from usseg_ray.sweeps.screen import Screen
from usseg_ray.tracking.ledger import Ledger
from usseg_ray.tracking.store import SECONDS
from usseg_ray.trials.job import Job
from usseg_ray.trials.room import kept_bytes, lacking_room
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.tasks import BaselineTask
from usseg_ray.trials.trainer import BASELINES, NODE_DIED, OUT_OF_REACH
from usseg_ray.trials.trial import (
    BATCH_FILE,
    BATCH_SIZE,
    CHECKPOINTS,
    TRIAL_FILE,
    EndStatus,
    Trial,
    noted_batch_size,
    number_and_seed,
    trial_name,
)

TUNE_KEYS = ("done", "should_checkpoint", "iterations_since_restore", "time_since_restore")


def name_of(trial: TuneTrial) -> str:
    """Returns the name that the queue of trials gave to one."""
    name: str = trial.config["trial"]
    return name


class Waits:
    """Says which trials wait for room in the cluster, and for what.

    Args:
        say: Takes a line for the user.
        every_s: Seconds between two looks; who waits at two of them, and at both something that was
            asked of the cluster found no room, is told of.
    """

    def __init__(self, say: Callable[[str], None], every_s: float = 10.0) -> None:
        self._say, self._every_s = say, every_s
        self._looked, self._waiting, self._said = time.monotonic(), set[str](), ""

    def look(self, waiting: Iterable[str]) -> None:
        """Takes the names of the trials that wait now."""
        now = time.monotonic()
        if now - self._looked < self._every_s:
            return
        waiting = set(waiting)
        reason = lacking() if waiting else ""
        # Between two trials a request stands open for a moment, which is no wait.
        before, self._waiting = self._waiting, waiting if reason else set()
        self._looked, said = now, ""
        if still := sorted(before & self._waiting):
            said = f"Waiting for room in the cluster: {', '.join(still[:3])} ({reason})."
        if said and said != self._said:
            self._say(f"{said} A node that joins is used at once.")
        self._said = said


@dataclass
class Monitor(tune.Callback):  # type: ignore[misc]
    """Follows the trials of one sweep.

    Attributes:
        storage: The sweep's folder.
        truth: Classes of the data, or `None`.
        palette: Their colours, or `None`.
        protocol: Named beside every score.
        ledger: The MLflow store.
        screen: The terminal.
        trials: Records by name, earlier lives of the sweep included.
        waits: Tells of trials that wait for room.
        baselines: The sweep's baselines.
        split: The split that trials are ranked on.
        objective: What trials are ranked by.
        ended: Is called when a trial has ended and its run is closed.
    """

    storage: Storage
    truth: GroundTruth | None
    palette: tuple[tuple[int, int, int], ...] | None
    protocol: str
    ledger: Ledger
    screen: Screen
    trials: dict[str, Trial]
    waits: Waits
    baselines: BaselineTask
    split: str
    objective: str = MIOU
    ended: Callable[[], None] = lambda: None
    _silent: set[str] = field(default_factory=set)
    _told_room: bool = False

    @property
    def folder(self) -> Path:
        """The sweep's folder on this machine."""
        return self.storage.folder

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for a restore that is not used here; a ledger cannot be."""
        return {}

    def on_step_begin(self, trials: list[TuneTrial], **_: object) -> None:
        """Looks after the trials that have not begun, or whose worker group has not."""
        pending = {name_of(t) for t in trials if t.status == TuneTrial.PENDING}
        waiting = pending - {BASELINES} | self._silent
        if len(waiting) == 1 and self.baselines.is_running:
            waiting = set()  # the baselines have its place for a while
        self.waits.look(waiting)

    def on_trial_start(self, trial: TuneTrial, **_: object) -> None:
        """Opens the trial's record and run."""
        if name_of(trial) == BASELINES:
            return
        record = self._open(trial)
        if record.num_workers:  # else its own process, which has begun, is all that it waits for
            self._silent.add(record.name)
        self.screen.show(record)

    def on_trial_result(self, trial: TuneTrial, result: dict[str, Any], **_: object) -> None:
        """Logs an epoch, or takes note of baselines."""
        if name_of(trial) == BASELINES:
            self.baselines.fetch()
            return
        record = self.trials[name_of(trial)]
        self._silent.discard(record.name)
        record.metrics = _plain(result)
        record.seconds = result["time_total_s"]
        if named := result.get("checkpoint_path"):
            record.checkpoint = str(self.folder / record.place / CHECKPOINTS / Path(named).name)
        self._save(record)
        found = {**record.metrics, SECONDS: record.seconds}
        self.ledger.log(record.name, found, int(record.metrics["epoch"]))
        self.screen.floors = self.baselines.so_far().get(self.split, {})
        self.screen.show(record)

    def on_trial_recover(self, trial: TuneTrial, **_: object) -> None:
        """Forgives a trial that its node was lost: only failures of its own are counted."""
        last = _error(trial).rpartition("Failure #")[2]
        if NODE_DIED in last or OUT_OF_REACH in last:
            trial.run_metadata.num_failures -= 1
        _without_secrets(trial)

    def on_trial_complete(self, trial: TuneTrial, **_: object) -> None:
        """Draws and closes a trial that ended by itself or was stopped by the scheduler."""
        if name_of(trial) == BASELINES:
            return
        record = self.trials[name_of(trial)]
        early = record.metrics.get("epoch", 0) < record.epochs
        reason = f"stopped by the scheduler after epoch {record.metrics.get('epoch', 0):g}"
        self._close(record, "STOPPED" if early else "FINISHED", reason if early else None)

    def on_trial_error(self, trial: TuneTrial, **_: object) -> None:
        """Closes a failed trial with its cause; the sweep goes on.

        Raises:
            UserError: Baselines failed: without them no score means anything.
        """
        cause = _cause(trial)
        _without_secrets(trial)
        if name_of(trial) == BASELINES:
            raise UserError(f"The baselines cannot be computed: {cause}")
        record = self.trials.get(name_of(trial)) or self._open(trial)
        self._close(record, "FAILED", cause)

    def close_unfinished(self, reason: str) -> None:
        """Closes trials that were cut off, so that a resumed sweep goes on with them."""
        for record in self.trials.values():
            if record.status == "RUNNING":
                self._close(record, "KILLED", reason)

    def _open(self, trial: TuneTrial) -> Trial:
        name, job = name_of(trial), cast(Job, trial.config["job"])
        index, seed = number_and_seed(name)
        record = Trial(
            index,
            job.method,
            dict(trial.config["sample"]),
            flatten(job.config),
            planned_epochs(job),
            seed=seed,
            objective=self.objective,
        )
        before = self.trials.get(name)
        if before and before.status == "RUNNING" and before.settings == record.settings:
            # It goes on after its last report, be it in a new process or in a new life.
            record.metrics, record.checkpoint = before.metrics, before.checkpoint
        self.trials[name] = record
        self._save(record)
        self.storage.push(f"{record.place}/{TRIAL_FILE}")
        tags = {
            "usseg.protocol": self.protocol,
            "usseg.data": self.protocol.partition(", ")[0],
            "usseg.method": job.method,
            "usseg.kmeans": available_backend(torch.device(job.placement.device)),
        }
        if seed is None:
            self.ledger.open_trial(name, record.settings, tags)
        else:
            self.ledger.open_final(trial_name(index), seed, record.settings, tags)
        return record

    def _close(self, record: Trial, status: EndStatus, reason: str | None) -> None:
        self._silent.discard(record.name)
        folder = self.folder / record.place
        self.storage.fetch(f"{record.place}/{ARRAYS}", f"{record.place}/{BATCH_FILE}")
        smaller = noted_batch_size(folder)
        if smaller is not None:
            reason = reason or f"out of memory: went on with {BATCH_SIZE} {smaller}"
            self.ledger.log(record.name, {BATCH_SIZE: smaller}, 0, summary=True)
        record.status, record.reason = status, reason
        self._save(record)
        if not record.seconds:  # the report sums up what the screen does
            self.ledger.log(record.name, {SECONDS: 0.0}, 0)
        if record.seed is None:  # a finalist's run is drawn as it is scored, on the test split
            self._draw(record, folder)
        self.storage.push(record.place)
        self._look_for_room(folder)
        if MIOU in record.metrics:
            self.ledger.tag(_in_views(record), record.name)
        # MLflow has no word for STOPPED, which is an end like another.
        closed = "FINISHED" if status == "STOPPED" else status
        self.ledger.close_trial(record.name, closed, record.reason)
        self.screen.show(record)
        self.ended()

    def _save(self, record: Trial) -> None:
        record.save((self.folder / record.place).parent)

    def _look_for_room(self, ended: Path) -> None:
        if self._told_room:
            return
        if fault := lacking_room(self.folder, kept_bytes(ended), self.screen.to_come):
            self._told_room = True
            self.screen.say(fault)

    def _draw(self, record: Trial, folder: Path) -> None:
        miou = record.metrics.get(MIOU)
        score = "" if miou is None else f", {MIOU} {miou:.1f}"
        caption = f"{record.name} ({record.method}): {self.protocol}{score}"
        if fault := try_to_draw(folder, self.truth, self.palette, caption):
            self.screen.say(f"{record.name} has no pictures: {fault}")
        self.ledger.attach(record.name, folder)


def _plain(result: dict[str, Any]) -> dict[str, float]:
    """Keeps what the run reported, without Tune's own bookkeeping."""
    tunes = {*AUTO_RESULT_KEYS, *DEBUG_METRICS, *TUNE_KEYS}
    return {
        key: float(value)
        for key, value in result.items()
        if key not in tunes and isinstance(value, int | float)
    }


def _error(trial: TuneTrial) -> str:
    """Reads what Tune wrote down about all failures of a trial, the last one last."""
    file = trial.error_file
    return Path(file).read_text(errors="replace") if file else ""


def _without_secrets(trial: TuneTrial) -> None:
    """Takes the secrets out of what Tune keeps of a failure; it keeps the error itself as well."""
    if trial.error_file:
        Path(trial.error_file).with_suffix(".pkl").unlink(missing_ok=True)
        write_whole(Path(trial.error_file), redacted(_error(trial)))


def _cause(trial: TuneTrial) -> str:
    """Finds the last line of a trial's traceback, where the cause stands."""
    lines = redacted(_error(trial)).strip().splitlines()
    telling = [
        line.strip() for line in lines if "Error" in line and not line.strip().startswith("ray.")
    ]
    return (telling or lines or ["unknown"])[-1][:500]


def _in_views(record: Trial) -> dict[str, str]:
    """Rounds a trial's score for MLflow's tables, whose first column says what a run is."""
    score = f"{record.metrics[MIOU]:.2f}"
    if record.seed is not None:
        return {"usseg.score": score}
    clusters = record.settings.get("num_clusters")
    name = f"{record.index:03d} {record.method} K={clusters} {score}"
    return {"usseg.score": score, "mlflow.runName": name}
