"""What a cluster has room for, what it can grow to, and the wait for its first machine.

A cluster that starts machines on demand has no CPU and no GPU when a sweep begins; how many trials
it can run at a time follows from what it may start, not from what is there.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.util import placement_group_table
from ray.util.placement_group import placement_group, remove_placement_group
from rich.console import Console

from usseg_ray.core.config import ResourceConfig
from usseg_ray.core.errors import UserError

VARIABLE = "USSEG_CAPACITY"

START_TIMEOUT_S = 1200

Amounts = dict[str, float]


def capacity() -> Amounts:
    """Adds up what the cluster has, or may start: its launcher's file or a variable says so.

    Returns:
        CPUs and GPUs, and whatever else the machines there have.

    Raises:
        UserError: `USSEG_CAPACITY` is not of the form `CPU=32,GPU=4`.
    """
    found: Amounts = dict(ray.cluster_resources())
    bootstrap = Path.home() / "ray_bootstrap_config.yaml"
    may_start = declared(os.environ.get(VARIABLE, ""))
    if os.environ.get("RAY_ADDRESS", "local") not in ("", "local") and bootstrap.exists():
        may_start = launchable(yaml.safe_load(bootstrap.read_text("utf-8"))) | may_start
    return {name: max(found.get(name, 0.0), may_start.get(name, 0.0)) for name in found | may_start}


def declared(text: str) -> Amounts:
    """Reads `CPU=32,GPU=4`.

    Raises:
        UserError: It has another form.
    """
    try:
        pairs = (part.split("=") for part in text.split(",") if part)
        return {name.strip(): float(amount) for name, amount in pairs}
    except ValueError:
        raise UserError(f"{VARIABLE}={text}: give amounts such as CPU=32,GPU=4.") from None


def launchable(spec: Mapping[str, Any]) -> Amounts:
    """Adds up the most that a launcher's machines can have together, the head left out.

    Args:
        spec: A file for `ray up`.

    Returns:
        CPUs and GPUs; for each, the types that have most of it come first.
    """
    most = spec.get("max_workers", 0)
    types = spec.get("available_node_types") or {}
    workers = [one for name, one in types.items() if name != spec.get("head_node_type")]
    found: Amounts = {}
    for name in ("CPU", "GPU"):
        left = most
        for one in sorted(workers, key=lambda one: -one["resources"].get(name, 0)):
            count = min(left, one.get("max_workers", most))
            found[name] = found.get(name, 0.0) + count * one["resources"].get(name, 0)
            left -= count
    return found


def await_machines(
    bundles: list[Amounts], console: Console, timeout_s: float = START_TIMEOUT_S
) -> None:
    """Has the cluster start machines for one trial if it has none, and waits for them.

    Args:
        bundles: What each process of a trial reserves.
        console: Where the wait is announced.
        timeout_s: Longest wait.

    Raises:
        UserError: They did not come.
    """
    wanted = {name: sum(one.get(name, 0) for one in bundles) for name in bundles[0]}
    have = ray.cluster_resources()
    if all(have.get(name, 0) >= amount for name, amount in wanted.items()):
        return
    asked = " and ".join(f"{amount:g} {name}s" for name, amount in wanted.items())
    console.print(
        f"Waiting for machines with {asked}; `ray status` on the head shows how they come.",
        highlight=False,
    )
    # A group that is not placed yet is what has the cluster start machines.
    group = placement_group(bundles, strategy="PACK")
    try:
        if not group.wait(timeout_s):
            raise UserError(
                f"No machine with {asked} came within {timeout_s:.0f} s. `ray status` on the head "
                "says why (quota, spot capacity, a failed setup), and "
                "/tmp/ray/session_latest/logs/monitor.log has the details."
            )
    finally:
        remove_placement_group(group)


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
    alive = sum(node["Alive"] for node in ray.nodes())
    nodes = "1 node" if alive == 1 else f"{alive} nodes"
    parts = [
        f"{amount:g} {name} asked for, {free.get(name, 0):g} of {have.get(name, 0):g} free"
        for name, amount in asked.items()
        if name in ("CPU", "GPU")
    ]
    return f"{'; '.join(parts) or 'memory asked for'} on {nodes}"
