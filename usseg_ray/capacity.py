"""What a cluster can grow to, and the wait for its first machine.

A cluster that starts machines on demand has no CPU and no GPU when a sweep begins; how many trials
it can run at a time follows from what it may start, not from what is there. `cluster` decides with
these numbers.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.util.placement_group import placement_group, remove_placement_group
from rich.console import Console

from usseg_ray.config import UserError

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
