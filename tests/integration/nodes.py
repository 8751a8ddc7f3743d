"""A Ray cluster of several nodes on this machine, whose nodes can be lost: run as a program.

It prints a line of JSON and stays until its input ends. A process of its own, since Ray's `Cluster`
wants the main thread and leaves its mark on the process that makes it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

# It sets the environment that makes Ray listen on loopback, for the nodes as for who joins them.
import usseg_ray  # noqa: F401

if TYPE_CHECKING:
    from ray._private.node import Node

# A lost node is noticed as soon as on the clusters of cluster.yaml.
ENVIRONMENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "b" * 64,
}


@dataclass(frozen=True)
class Nodes:
    """A running cluster.

    Attributes:
        address: To join it.
        environment: Of every process that does.
        folder: Where Ray keeps its sessions.
        raylets: Process id of each node's raylet; trials are their children.
        ids: What Ray calls each node.
        head: Process ids of the head's services.
        program: This file, as a program.
    """

    address: str
    environment: dict[str, str]
    folder: Path
    raylets: list[int]
    ids: list[str]
    head: list[int]
    program: "subprocess.Popen[str]"

    def running(self, what: str) -> list[int]:
        """Lists the nodes with a process that Ray named after what it runs."""
        found = set[int]()
        for node, raylet in enumerate(self.raylets):
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(raylet).children():
                    found |= {node} if what in " ".join(child.cmdline()) else set()
        return sorted(found)

    def join(self) -> None:
        """Adds a node."""
        assert self.program.stdin
        self.program.stdin.write("\n")
        self.program.stdin.flush()
        said = _told(self.program)
        self.raylets.append(said["raylet"])
        self.ids.append(said["id"])

    def lose(self, node: int) -> None:
        """Kills a node as if its machine were gone: its raylet and everything under it."""
        _kill([self.raylets[node]])

    def announce_loss(self, node: int, seconds: int) -> None:
        """Tells Ray that a node will be taken away."""
        notice = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "by a test"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", *notice]
        command += ["--address", self.address, "--node-id", self.ids[node]]
        command += ["--deadline-remaining-seconds", str(seconds)]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)

    def lose_head(self) -> None:
        """Kills the head's services."""
        _kill(self.head)


@contextmanager
def nodes(count: int, extra: Mapping[str, str] | None = None, cpus: int = 1) -> Iterator[Nodes]:
    """Runs a head without CPUs and nodes for a `with` block.

    Args:
        count: Nodes beside the head.
        extra: Environment of all of their processes.
        cpus: Of each node.
    """
    # Ray's sockets want a short path, and other clusters on this machine are not to find this one.
    folder = Path(tempfile.mkdtemp(prefix="rn", dir="/tmp"))
    # What `usseg_ray` chose for this process, which joins no cluster, is not what a user set.
    chosen = ("RAY_ADDRESS", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
    environment = {k: v for k, v in os.environ.items() if k not in chosen}
    environment |= ENVIRONMENT | {"RAY_TMPDIR": str(folder)} | dict(extra or {})
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.nodes", str(count), str(cpus)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    started: list[psutil.Process] = []
    try:
        said = _told(program)
        started = psutil.Process(program.pid).children(recursive=True)
        joined = environment | {"RAY_ADDRESS": said["address"]}
        nodes = said["nodes"]
        raylets, ids = ([node[key] for node in nodes] for key in ("raylet", "id"))
        yield Nodes(said["address"], joined, folder / "ray", raylets, ids, said["head"], program)
    finally:
        with suppress(psutil.NoSuchProcess):
            started += psutil.Process(program.pid).children(recursive=True)
        program.kill()
        program.communicate()
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def main(count: int, cpus: int) -> None:
    """Keeps a cluster until the standard input ends; a line there adds a node."""
    from ray.cluster_utils import Cluster

    local = {"node_ip_address": "127.0.0.1"}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **local},
    )
    workers = [cluster.add_node(num_cpus=cpus, wait=False, **local) for _ in range(count)]
    cluster.wait_for_nodes()
    head = [pid for group in _pids(cluster.head_node).values() for pid in group]
    _tell({"address": cluster.address, "nodes": [_node(one) for one in workers], "head": head})
    for _ in sys.stdin:
        _tell(_node(cluster.add_node(num_cpus=cpus, **local)))


def _node(node: "Node") -> dict[str, Any]:
    return {"raylet": _pids(node)["raylet"][0], "id": node.node_id}


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


def _told(program: "subprocess.Popen[str]") -> dict[str, Any]:
    assert program.stdout
    return dict(json.loads(program.stdout.readline()))


def _kill(pids: Sequence[int]) -> None:
    """Kills processes and all below them; none can start another one before its own end."""
    processes = list[psutil.Process]()
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            one = psutil.Process(pid)
            one.suspend()
            processes += [one, *one.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _pids(node: "Node") -> dict[str, list[int]]:
    return {
        kind: [info.process.pid for info in infos] for kind, infos in node.all_processes.items()
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
