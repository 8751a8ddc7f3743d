"""`ray up` to `ray down` on loopback: the documented commands, and strangers without the token."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROGRAM = Path(__file__).with_name("loopback.py")
TOOLS = {"/usr/sbin/sshd": "openssh-server", "rsync": "rsync", "ip": "iproute2", "ss": "iproute2"}
UNSHARE = ("unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child")


def hindrance() -> str | None:
    """Says why the cluster cannot be launched here."""
    lacking = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    if lacking:
        return f"apt-get install {' '.join(sorted(lacking))}"
    if os.geteuid() != 0:
        return "an SSH server with mounts of its own takes root"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"namespaces are refused: {tried.stderr.strip()}" if tried.returncode else None


def belonging_to(folder: Path) -> list[str]:
    """Lists processes that were started with a folder's files, as seen from outside."""
    there = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [" ".join(line) for line in there if any(str(folder) in word for word in line)]


def places() -> set[str]:
    """Lists Ray's and SSH's files where they would lie outside of the test's folder."""
    found = [*Path("/tmp").glob("ray*"), Path("/run/sshd")]
    return {str(path) for path in found if path.exists()}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[dict[str, Any]]:
    """What the program saw; the cluster is gone when it is handed out.

    The tests' own cluster is there before, so that Ray's folder in /tmp is.
    """
    if (why := hindrance()) is not None:
        pytest.skip(f"the launcher's test needs more than is here: {why}")
    folder = tmp_path_factory.mktemp("launched")
    before = places()
    done = subprocess.run(
        [*UNSHARE, "bash", "-c", '"$@"; exit $?', "bash", sys.executable, PROGRAM, folder],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    found |= {"outside": belonging_to(folder), "files": sorted(places() - before)}
    yield found
    print(json.dumps(found["seconds"]))


def test_a_sweep_of_two_trials_ran_as_a_job_and_left_its_scores(seen: dict[str, Any]) -> None:
    assert "succeeded" in seen["sweep"]
    assert len(re.findall(r"trial_00[01] finished", seen["sweep"])) == 2
    assert "Best trial on test" in seen["sweep"]
    assert "unsup_miou" in json.dumps(seen["final"])
    assert "unsup_miou" in seen["exec"]
    assert "local.cluster.node" in seen["exec"]


def test_what_runs_on_the_head_joins_its_cluster(seen: dict[str, Any]) -> None:
    assert "ATTACHED 127.0.0.1:6379" in seen["attached"]


def test_strangers_are_refused_at_every_door(seen: dict[str, Any]) -> None:
    assert seen["jobs"] == [401, 403, 200]
    assert seen["client"] == ["refused", "refused", "open"]
    assert seen["tunnel"] == [401, 200]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("no token", "there is no token"),
        ("wrong token", "does not know this token"),
        ("no mode", "export RAY_AUTH_MODE=token"),
        ("dead", "nobody listens there"),
        ("other", "Ray: 2.59.0"),
    ],
)
def test_why_a_cluster_cannot_be_joined_is_said_in_seconds(
    seen: dict[str, Any], case: str, says: str
) -> None:
    line = next(line for line in seen[case].splitlines() if " s: " in line)
    seconds, cause = line.split(" s: ", 1)
    assert says in cause
    assert float(seconds) < 10
    assert "joined" in seen["alive"]


def test_nothing_listens_beyond_loopback_and_doctor_agrees(seen: dict[str, Any]) -> None:
    addresses = {re.sub(r":\d+ .*", "", line).strip("[]") for line in seen["listeners"]}
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert "0 errors" in seen["doctor"]
    assert "asks for a token" in seen["doctor"]


def test_nothing_is_left_running_or_lying_about(seen: dict[str, Any]) -> None:
    assert seen["left"] == []
    assert seen["outside"] == []
    assert seen["files"] == []
