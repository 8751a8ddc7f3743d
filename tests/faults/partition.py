"""Two machines whose network breaks and heals: network namespaces, with a cable between them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import psutil

from tests.faults.kills import TRAINING, lives_through
from tests.faults.matrix import Found, fault
from tests.faults.scenario import Life, Sweep, until

HERE, THERE, PORT = "10.9.0.1", "10.9.0.2", 6399
# Ray shall listen on the addresses of the cable, as it does on a cluster.
LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_ADDRESS")


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def machines(folder: Path) -> Iterator[dict[str, str]]:
    """Runs a head here and a node beyond the cable; yields the environment of who joins them."""
    environment = {key: value for key, value in os.environ.items() if key not in LOOPBACK}
    before = set(psutil.pids())
    other = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
    beyond = ["nsenter", f"--net=/proc/{other.pid}/ns/net"]

    def start(where: list[str], address: str, cpus: int, *options: str) -> None:
        command = [*where, sys.executable, "-m", "ray.scripts.scripts", "start", *options]
        command += [f"--node-ip-address={address}", f"--num-cpus={cpus}"]
        command += ["--object-store-memory=100000000"]
        subprocess.run(command, env=environment, check=True, capture_output=True)

    try:
        run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there")
        own, its = (Path(f"/proc/{who}/ns/net") for who in ("self", other.pid))
        until(lambda: not its.samefile(own), "a network of its own")
        run("ip", "link", "set", "there", "netns", str(other.pid))
        for where, address, end in (([], HERE, "here"), (beyond, THERE, "there")):
            run(*where, "ip", "address", "add", f"{address}/24", "dev", end)
            run(*where, "ip", "link", "set", end, "up")
            run(*where, "ip", "link", "set", "lo", "up")
        head = ["--head", f"--port={PORT}", f"--temp-dir={folder}", "--include-dashboard=false"]
        start([], HERE, 2, *head)
        start(beyond, THERE, 1, f"--address={HERE}:{PORT}")
        yield {"RAY_ADDRESS": f"{HERE}:{PORT}", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": ""}
    finally:
        # In a namespace of processes nobody else has begun anything since.
        for pid in set(psutil.pids()) - before:
            with suppress(psutil.Error):
                psutil.Process(pid).kill()
        other.wait()


@fault("partition", "the network between two nodes breaks for 1 to 30 s under trials on both")
def partition(random: Random, root: Path) -> Found:
    def happen(_: Life) -> None:
        run("ip", "link", "set", "here", "down")
        time.sleep(random.uniform(1, 30))
        run("ip", "link", "set", "here", "up")

    with machines(root / "ray") as environment:
        asked = {"resources.cpus_per_worker": 1.0}
        sweep = Sweep(root, environment, max_concurrent=2, assigned=asked)
        return lives_through(random, sweep, happen, TRAINING)
