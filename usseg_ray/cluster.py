"""The Ray cluster under a command: joined if there is one, else started here and quietly.

A cluster started here listens on loopback only, with Ray's token authentication and a token file
that its owner alone can read. What Ray reads from the environment is set in `usseg_ray/__init__`,
before anything can import Ray.
"""

import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from usseg_ray.config import ResourceConfig, UserError

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
    ended_by = signal.getsignal(signal.SIGTERM)
    _connect()
    if threading.current_thread() is threading.main_thread():
        # Ray puts a handler of its own there, which ends the process before anything is closed.
        signal.signal(signal.SIGTERM, ended_by)
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
    shm = Path("/dev/shm")
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
    cpus = resources.processes * (resources.cpus_per_worker + resources.data_cpus_per_worker)
    fits = int(have.get("CPU", 0) / cpus + 1e-9)
    asks = f"{cpus:g} CPUs"
    if device == "cuda":
        gpus = resources.processes * resources.gpus_per_worker
        fits = min(fits, int(have.get("GPU", 0) / gpus + 1e-9))
        asks += f" and {gpus:g} GPUs"
    if fits < 1:
        raise UserError(
            f"A trial asks for {asks} ({resources.processes} workers), the cluster has "
            f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs. "
            "Lower resources.num_workers or resources.cpus_per_worker."
        )
    return fits
