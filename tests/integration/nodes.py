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

import psutil

# It sets the environment that makes Ray listen on loopback, for the nodes as for who joins them.
import usseg_ray  # noqa: F401

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
    """

    address: str
    environment: dict[str, str]
    folder: Path
    raylets: tuple[int, ...]
    ids: tuple[str, ...]
    head: tuple[int, ...]

    def running(self, what: str) -> list[int]:
        """Lists the nodes with a process that Ray named after what it runs."""
        found = set[int]()
        for node, raylet in enumerate(self.raylets):
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(raylet).children():
                    found |= {node} if what in " ".join(child.cmdline()) else set()
        return sorted(found)

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
        assert program.stdout
        said = json.loads(program.stdout.readline())
        started = psutil.Process(program.pid).children(recursive=True)
        joined = environment | {"RAY_ADDRESS": said["address"]}
        raylets, ids, head = (tuple(said[key]) for key in ("raylets", "ids", "head"))
        yield Nodes(said["address"], joined, folder / "ray", raylets, ids, head)
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
    """Keeps a cluster until the standard input ends."""
    from ray.cluster_utils import Cluster

    local = {"node_ip_address": "127.0.0.1"}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **local},
    )
    workers = [cluster.add_node(num_cpus=cpus, wait=False, **local) for _ in range(count)]
    cluster.wait_for_nodes()
    pids = [_pids(node) for node in workers]
    head = [pid for group in _pids(cluster.head_node).values() for pid in group]
    raylets = [group["raylet"][0] for group in pids]
    ids = [node.node_id for node in workers]
    said = {"address": cluster.address, "raylets": raylets, "ids": ids, "head": head}
    sys.stdout.write(f"{json.dumps(said)}\n")
    sys.stdout.flush()
    sys.stdin.read()


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


def _pids(node: "object") -> dict[str, list[int]]:
    return {
        kind: [info.process.pid for info in infos]
        for kind, infos in node.all_processes.items()  # type: ignore[attr-defined]
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
