"""One trial: a Tune function that trains in its own process, or launches a `TorchTrainer`.

A worker group costs several processes and seconds before it learns anything; for several devices a
trial there is no other way. Kept light on purpose (no torch at import): Ray imports it in the
helper processes of every trial.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray

from usseg_ray.cluster.capacity import worker_resources
from usseg_ray.core.config import ResourceConfig
from usseg_ray.core.files import resolve
from usseg_ray.trials.job import FinalScoring, Job
from usseg_ray.trials.storage import Storage, below, opened
from usseg_ray.trials.trial import (
    BATCH_FILE,
    CHECKPOINTS,
    TRAINED,
    note_batch_size,
    noted_batch_size,
    place_of,
)

if TYPE_CHECKING:
    from ray.train import UserCallback
    from ray.train.torch import TorchTrainer

    from usseg_ray.engine.run import Run

BASELINES = "baselines"
"""What stands for a trial's name where its process is to compute the sweep's baselines."""

TRIAL_MEMORY_BYTES = 256 * 2**20
COLLECTIVE_TIMEOUT_S = 600
NODE_DIED = "its node has died"
"""Ray's words for an actor that was lost with its machine, of whatever error they are part."""
OUT_OF_REACH = "actor is temporarily unavailable"
"""The same while it does not know yet: of a process that died alone it hears within a second."""
_LIST, _DAMAGED_LIST = "checkpoint_manager_snapshot.json", "CheckpointManagerInitializationError"
NOTICE_S = 20.0
"""How long Ray may take to notice a lost node; see docs/scaling.md."""


def train_worker(payload: dict[str, Any]) -> None:
    """Runs in every worker of the group."""
    from usseg_ray.trials import worker  # noqa: PLC0415 (torch and timm: for workers only)

    with opened(payload["folder"]) as storage:
        worker.run_in_group(payload["job"], storage).fit()


def run_trial(config: dict[str, Any], folder: str) -> None:
    """Fits one trial inside a Tune function, or computes baselines: what Tune's config says.

    If memory runs out, it is fitted once more with half the batch, which its folder notes. Where it
    has trained in this process, this goes on with test scores: it has loaded all that they need.

    Args:
        config: `trial`, its name or `BASELINES`, `job`, what to fit, and of a trial `finals`,
            what is scored on the test split when it has ended.
        folder: The sweep's folder, or its URI.

    Raises:
        Exception: What made it fail; Tune starts the trial again, once for its own failures and
            always for those of its node.
    """
    job: Job = config["job"]
    if config["trial"] == BASELINES:
        from usseg_ray.trials import tasks  # noqa: PLC0415 (torch and timm)

        tasks.baselines_here(job, folder)
        return
    if job.shared:
        job = replace(job, shared=below(folder, f"{TRAINED}/{job.shared}"))
    home = below(folder, place_of(config["trial"]))
    noted = _noted(home)
    while True:
        if noted:
            job = job.with_training(batch_size=noted)
        try:
            with opened(home) as storage:
                _run_of(job, storage).fit()
        except Exception as error:
            half = 0 if noted else _half(job)
            if half == 0 or not _is_out_of_memory(error):
                raise
        else:
            break
        # Only here is the failed attempt's memory free: the error held its frames.
        noted = half
        _note(noted, home)
    if config["finals"] and not job.config.resources.num_workers:
        _score(config["finals"], folder)


def _score(asked: Sequence[FinalScoring], folder: str) -> None:
    from usseg_ray.trials import worker  # noqa: PLC0415 (torch and timm)

    # What fails here is scored again, and told of, by who looks for the scores.
    with suppress(Exception):
        worker.final_scores(asked, folder)


def _noted(home: str) -> int | None:
    with opened(home) as storage:
        storage.fetch(BATCH_FILE)
        return noted_batch_size(storage.folder)


def _note(batch_size: int, home: str) -> None:
    with opened(home) as storage:
        note_batch_size(storage.folder, batch_size)
        storage.push(BATCH_FILE)


def _half(job: Job) -> int:
    """Halves the batch to a number that the workers can share; 0 if there is none."""
    half = job.config.train.batch_size // 2
    return half - half % job.config.resources.processes


def _is_out_of_memory(error: BaseException) -> bool:
    """Tells it by the words of CUDA's, the CPU's and Ray's allocators, through Ray's wrapping."""
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def _run_of(job: Job, storage: Storage) -> "Run | _WorkerGroup":
    """Makes what fits a job: a run in this process, or a group of workers."""
    if job.config.resources.num_workers != 0:
        return _WorkerGroup(job, storage.place)
    from usseg_ray.trials import worker  # noqa: PLC0415 (torch and timm)

    return worker.run_here(job, storage)


def trial_resources(resources: ResourceConfig, device: str) -> dict[str, float]:
    """Lists what a trial's own process reserves in Ray.

    Args:
        resources: What a trial may use; the number of workers is chosen.
        device: `cpu` or `cuda`.

    Returns:
        The share of a training process where it trains itself. Where it waits for a worker group:
        no CPU, but a real share of memory, since Tune refuses a trial that asks for nothing.
    """
    if resources.num_workers == 0:
        return worker_resources(resources, device)
    return {"memory": TRIAL_MEMORY_BYTES}


@dataclass(frozen=True)
class _WorkerGroup:
    """A group of workers that Ray Train starts.

    Attributes:
        job: What they fit together.
        home: The trial's folder, or its URI.
    """

    job: Job
    home: str

    def fit(self) -> None:
        """Fits the job.

        Raises:
            ray.train.TrainingFailedError: A worker failed.
        """
        from ray.train import TrainingFailedError  # noqa: PLC0415 (imports torch)

        before = _alive()
        try:
            self._fit()
        except TrainingFailedError as error:
            if _is_lost_worker(error) and _lost_one(before):
                raise RuntimeError(f"A worker was lost: {NODE_DIED}") from error
            raise

    def _fit(self) -> None:
        try:
            self._trainer().fit()
        except ray.exceptions.RayActorError as error:
            if _DAMAGED_LIST not in str(error):
                raise
            # Ray Train's list of checkpoints is written in place, and it reads it before anything
            # else. The workers find what is whole without it.
            filesystem, path = resolve(below(self.home, f"{CHECKPOINTS}/{_LIST}"))
            filesystem.delete_file(path)
            self._trainer().fit()

    def _trainer(self) -> "TorchTrainer":
        from ray.train import (  # noqa: PLC0415 (imports torch)
            CheckpointConfig,
            LoggingConfig,
            RunConfig,
            ScalingConfig,
        )
        from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415

        resources, device = self.job.config.resources, self.job.placement.device
        if resources.fewest < resources.processes:
            # For 20 s Ray Train may count workers on a node that is lost; it then waits for them in
            # vain, for a minute unless told, before it counts again.
            os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
        return TorchTrainer(
            train_worker,
            train_loop_config={"job": self.job, "folder": self.home},
            torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
            scaling_config=ScalingConfig(
                num_workers=resources.processes
                if resources.fewest == resources.processes
                else (resources.fewest, resources.processes),
                use_gpu=device == "cuda",
                resources_per_worker=worker_resources(resources, device),
            ),
            run_config=RunConfig(
                name=CHECKPOINTS,
                storage_path=self.home,
                callbacks=[_to_tune()],
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )


def _to_tune() -> "UserCallback":
    """Has Ray Tune take a group's epochs; states within an epoch come without metrics."""
    from ray.tune.integration.ray_train import TuneReportCallback  # noqa: PLC0415

    class Epochs(TuneReportCallback):  # type: ignore[misc]
        def after_report(
            self, run_context: object, metrics: list[dict[str, Any]], checkpoint: object
        ) -> None:
            if metrics[0]:
                super().after_report(run_context, metrics, checkpoint)

    return Epochs()


def _is_lost_worker(error: BaseException) -> bool:
    """Tells it by the words of gloo and NCCL, whose ends are broken before Ray knows, and Ray's."""
    words = ("by peer", "NCCL", "remote process exited", "ActorDied", "ActorUnavailable")
    return any(word in str(error) for word in words)


def _alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _lost_one(before: set[str]) -> bool:
    """Waits until Ray misses one of some nodes, for as long as it may take to notice."""
    ends = time.monotonic() + NOTICE_S
    while before <= _alive():
        if time.monotonic() > ends:
            return False
        time.sleep(0.5)
    return True
