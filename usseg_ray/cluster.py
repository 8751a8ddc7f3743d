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
from ray.exceptions import AuthenticationError
from ray.util import placement_group_table

from usseg_ray.capacity import capacity
from usseg_ray.config import ResourceConfig, UserError
from usseg_ray.joining import check_cluster

OBJECT_STORE_BYTES = 768 * 2**20


@contextmanager
def local_ray() -> Iterator[None]:
    """Joins the cluster of `RAY_ADDRESS`, or starts one on this machine, for a `with` block.

    On the head of a cluster that `ray up` started, `RAY_ADDRESS` is that cluster's unless it says
    otherwise (`local` starts one beside it): what `ray submit` runs there belongs to it.

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
    address = os.environ.get("RAY_ADDRESS", "local")
    if address not in ("", "local"):
        check_cluster(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, AuthenticationError) as error:
            cause = " ".join(f"{error} {error.__cause__ or ''}".split())
            raise UserError(
                f"RAY_ADDRESS={address}: the Ray cluster there cannot be joined ({cause[:300]}). "
                "python -m usseg_ray.doctor may know why; unset it to use this machine alone."
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
    gpus = capacity().get("GPU", 0)
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


def trial_bundles(resources: ResourceConfig, device: str) -> list[dict[str, float]]:
    """Lists what one trial reserves at least, with the tasks that read for it."""
    share = worker_resources(resources, device)
    share["CPU"] += resources.data_cpus_per_worker
    return [share] * resources.fewest


def max_concurrent_trials(resources: ResourceConfig, device: str) -> int:
    """Computes how many trials fit the cluster at once, reading tasks included, once it has grown.

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
    fits = _fitting(resources, device)
    if fits < resources.fewest:
        have = capacity()
        cpus = resources.fewest * (resources.cpus_per_worker + resources.data_cpus_per_worker)
        asks = f"{cpus:g} CPUs"
        if device == "cuda":
            asks += f" and {resources.fewest * resources.gpus_per_worker:g} GPUs"
        raise UserError(
            f"A trial asks for {asks} ({resources.fewest} workers), the cluster has "
            f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs. "
            "Lower resources.num_workers or resources.cpus_per_worker."
        )
    return max(1, fits // resources.processes)


def processes_at_start(resources: ResourceConfig, device: str) -> int:
    """Says how many processes a trial has room for now, of a cluster on which one fits."""
    return min(resources.processes, _fitting(resources, device))


def _fitting(resources: ResourceConfig, device: str) -> int:
    """Counts the training processes that fit the cluster, reading tasks included."""
    have = capacity()
    cpus = resources.cpus_per_worker + resources.data_cpus_per_worker
    fits = int(have.get("CPU", 0) / cpus + 1e-9)
    if device == "cuda":
        fits = min(fits, int(have.get("GPU", 0) / resources.gpus_per_worker + 1e-9))
    return fits


def lacking() -> str:
    """Says what has been asked of the cluster and finds no room now; empty if nothing has."""
    asked: dict[str, float] = {}
    for group in placement_group_table().values():
        if group["state"] in ("PENDING", "RESCHEDULING"):
            for bundle in group["bundles"].values():
                for name, amount in bundle.items():
                    asked[name] = asked.get(name, 0.0) + amount
    if not asked:
        return ""
    free, have = ray.available_resources(), ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    parts = [
        f"{amount:g} {name} asked for, {free.get(name, 0):g} of {have.get(name, 0):g} free"
        for name, amount in asked.items()
        if name in ("CPU", "GPU")
    ]
    return f"{'; '.join(parts) or 'memory asked for'} on {nodes} nodes"
