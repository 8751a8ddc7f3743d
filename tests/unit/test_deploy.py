"""The cluster files are what Ray accepts, pinned alike, and start what they say, in that order."""

import json
import os
import re
import subprocess
import threading
import time
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.dashboard.modules.job import job_supervisor

from tests.conftest import PROJECT
from tests.integration.nodes import ENVIRONMENT

DEPLOY = PROJECT / "docs" / "deploy"
CLOUDS = [PROJECT / "cluster.yaml", DEPLOY / "gcp.yaml"]
LAUNCHED = [*CLOUDS, DEPLOY / "on_premises.yaml"]


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text("utf-8")))


def pins() -> dict[str, str]:
    lines = (DEPLOY / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda path: path.name)
def test_ray_accepts_the_file(path: Path) -> None:
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(read(path), json.loads(schema.read_text("utf-8")))
    prepared = prepare_config(read(path))
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_a_lost_machine_is_noticed_as_soon_as_where_that_was_measured() -> None:
    checks = {k: v for k, v in ENVIRONMENT.items() if k.startswith("RAY_health_check")}
    assert len(checks) == 3
    for name, value in checks.items():
        assert_known_to_all(name, value)


def assert_known_to_all(name: str, value: str) -> None:
    pod = read(DEPLOY / "kuberay_rayjob.yaml")["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert {"name": name, "value": value} in pod["template"]["spec"]["containers"][0]["env"]
    told = (" ".join(read(path)["setup_commands"]) for path in LAUNCHED)
    assert all(f"'{name}={value}'" in commands for commands in told)


def test_a_job_that_is_stopped_has_time_to_close_its_runs() -> None:
    name = "RAY_JOB_STOP_WAIT_TIME_S"
    assert name in Path(job_supervisor.__file__).read_text("utf-8")
    assert_known_to_all(name, "60")


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda path: path.name)
def test_what_is_mounted_is_there_and_is_enough_to_install(path: Path) -> None:
    mounted = {k: v for k, v in read(path)["file_mounts"].items() if "auth_token" not in k}
    assert all((PROJECT / source).exists() for source in mounted.values())
    places = {place.removeprefix("~/usseg_ray/") for place in mounted}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {"usseg_ray", "search_spaces", "pyproject.toml", "constraints.txt"}
    assert needed | {project["readme"], *project["license-files"]} <= places


def test_every_node_installs_the_same_versions_which_the_project_allows() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    wanted = [Requirement(text) for text in asked]
    pinned = pins()
    for one in (r for r in wanted if r.marker is None or r.marker.evaluate()):
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one
    job = read(DEPLOY / "kuberay_rayjob.yaml")["spec"]["rayClusterSpec"]
    assert job["rayVersion"] == pinned["ray"]
    for path in LAUNCHED:
        assert "--constraint ~/usseg_ray/constraints.txt" in " ".join(read(path)["setup_commands"])


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("available", "first"), [({}, "gpu_spot"), ({"gpu_spot": 0.0}, "gpu_on_demand")]
)
def test_spot_comes_first_and_on_demand_where_it_cannot_be_had(
    path: Path, available: dict[str, float], first: str
) -> None:
    config = AutoscalingConfig(prepare_config(read(path)), skip_content_hash=True)
    wants = {"CPU": 0.75, "GPU": 1.0}
    asked = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(wants, [])] * 2
        ),
        recoverable_resource_availabilities=available,
    )
    launched = ResourceDemandScheduler().schedule(asked).to_launch
    assert {one.instance_type: one.count for one in launched}[first] == 2


class Metadata(BaseHTTPRequestHandler):
    """Says what a cloud tells its machine of itself: whether it will be taken away."""

    going = False

    def do_PUT(self) -> None:
        self._answer("token")

    def do_GET(self) -> None:
        if self.path == "/latest/meta-data/spot/instance-action":
            known = self.headers["X-aws-ec2-metadata-token"] == "token"
            self._answer('{"action": "terminate"}' if self.going and known else None)
        elif self.path == "/computeMetadata/v1/instance/preempted":
            known = self.headers["Metadata-Flavor"] == "Google"
            self._answer(str(self.going).upper() if known else None)
        else:
            self._answer(None)

    def log_message(self, *_: object) -> None:
        """Keeps silent."""

    def _answer(self, text: str | None) -> None:
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())


@pytest.fixture
def metadata() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Metadata.going = False
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.name)
def test_ray_is_told_when_the_cloud_takes_a_spot_machine_back(
    path: Path, tmp_path: Path, metadata: ThreadingHTTPServer
) -> None:
    told, ray_command = tmp_path / "told", tmp_path / "ray"
    ray_command.write_text(f'#!/bin/sh\necho "$@" > {told}.new && mv {told}.new {told}\n')
    ray_command.chmod(0o755)
    (tmp_path / ".usseg_ray.env").touch()
    command = read(path)["worker_start_ray_commands"][-1]
    command, hosts = re.subn(
        r"http://(169\.254\.169\.254|metadata\.google\.internal)(?=/)",
        f"http://127.0.0.1:{metadata.server_port}",
        command,
    )
    assert hosts == 1
    where = {"HOME": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], env=os.environ | where, check=True, timeout=20)
    try:
        assert not told.exists()
    finally:
        Metadata.going = True
    ends = time.monotonic() + 30
    while not told.exists() and time.monotonic() < ends:
        time.sleep(0.1)
    said = told.read_text().split()
    assert said[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    assert 0 < int(said[said.index("--deadline-remaining-seconds") + 1]) < 120


def test_no_file_names_a_machine_or_carries_a_secret() -> None:
    for path in [*LAUNCHED, DEPLOY / "kuberay_rayjob.yaml"]:
        # Every machine finds what its cloud tells it at this address.
        own = path.read_text("utf-8").replace("169.254.169.254", "")
        assert not re.search(r"AKIA|PRIVATE KEY|\d+\.\d+\.\d+\.\d+(?<!127\.0\.0\.1)", own)
