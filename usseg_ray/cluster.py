"""The Ray cluster under a command: joined if there is one, else started here and quietly.

A cluster started here listens on loopback only, with Ray's token authentication and a token file
that its owner alone can read.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from usseg_ray.config import ResourceConfig, UserError

# The controller polls its workers at this interval, and `report` waits for it: Ray's 2 s would
# cost two seconds an epoch. Read by Ray when it is first imported, in every process of a trial.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# Two helper processes a trial that have no use on one machine and no reader here.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
# Ray ends idle workers after a second and keeps no more than one a core; a reading task that has
# to start a process and import torch takes seconds instead of milliseconds.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
os.environ.setdefault("RAY_num_workers_soft_limit", "16")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# A stage without a score (CAUSE's clusterbook) reports no `unsup_miou`.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
# Ctrl-C ends a sweep at once; its folder is what it resumes from, not Tune's own state.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
# The older reporter keeps silent at verbosity 0; the newer one prints a box all the same.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray  # noqa: E402

OBJECT_STORE_BYTES = 768 * 2**20


@contextmanager
def local_ray() -> Iterator[None]:
    """Joins the cluster of `RAY_ADDRESS`, or starts one on this machine, for a `with` block.

    Yields:
        Nothing; Ray is initialised inside the block and, if started here, stopped after it.

    Raises:
        UserError: `RAY_ADDRESS` names a cluster that cannot be joined.
    """
    if ray.is_initialized():
        yield
        return
    _connect()
    try:
        yield
    finally:
        ray.shutdown()


def _connect() -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError as error:
            raise UserError(
                f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}). "
                "Start one, check its token (RAY_AUTH_MODE, ~/.ray/auth_token), or unset it."
            ) from None
        return
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=_object_store_bytes(),
        _node_ip_address="127.0.0.1",
        **quiet,
    )
    _protect_token()


def _object_store_bytes() -> int:
    shm = Path("/dev/shm")  # noqa: S108
    free = shutil.disk_usage(shm).free if shm.exists() else OBJECT_STORE_BYTES
    return min(OBJECT_STORE_BYTES, max(100 * 2**20, int(free * 0.8)))


def _protect_token() -> None:
    """Ray writes a new token with the umask's mode; a token is its owner's alone."""
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() and token.stat().st_mode & 0o077:
        token.chmod(0o600)


def device_of(resources: ResourceConfig) -> str:
    """Resolves `auto` to `cuda` where the cluster has a GPU, else `cpu`.

    Raises:
        UserError: CUDA is asked for and the cluster has no GPU.
    """
    gpus = ray.cluster_resources().get("GPU", 0)
    if resources.device == "auto":
        return "cuda" if gpus else "cpu"
    if resources.device == "cuda" and not gpus:
        raise UserError(
            "--device cuda: the Ray cluster has no GPU. Use --device cpu, or join a cluster "
            "that has one (RAY_ADDRESS)."
        )
    return resources.device


def worker_resources(resources: ResourceConfig, device: str) -> dict[str, float]:
    """Lists what one training process reserves in Ray."""
    share = {"CPU": resources.cpus_per_worker}
    return share | {"GPU": resources.gpus_per_worker} if device == "cuda" else share


def max_concurrent_trials(resources: ResourceConfig, device: str) -> int:
    """Computes how many trials fit the cluster at once, reading tasks included.

    Train's workers are placed outside a trial's own resources, so more trials than fit would wait
    for each other for ever; hence this number is checked before anything starts.

    Args:
        resources: What a trial asks for.
        device: `cpu` or `cuda`.

    Returns:
        At least 1.

    Raises:
        UserError: Not even one trial fits.
    """
    have = ray.cluster_resources()
    cpus = resources.num_workers * (resources.cpus_per_worker + resources.data_cpus_per_worker)
    fits = int(have.get("CPU", 0) / cpus + 1e-9)
    asks = f"{cpus:g} CPUs"
    if device == "cuda":
        gpus = resources.num_workers * resources.gpus_per_worker
        fits = min(fits, int(have.get("GPU", 0) / gpus + 1e-9))
        asks += f" and {gpus:g} GPUs"
    if fits < 1:
        raise UserError(
            f"A trial asks for {asks} ({resources.num_workers} workers), the cluster has "
            f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs. "
            "Lower resources.num_workers or resources.cpus_per_worker."
        )
    return fits
