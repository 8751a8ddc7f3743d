"""Every planted fault of a cluster file is found, and a file that is filled out is clean."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import PROJECT
from usseg_ray.doctor.finding import Finding
from usseg_ray.doctor.launcher import check_launcher, pinned, read_yaml

HERE = {"ray": "2.60.0", "boto3": "1", "google-api-python-client": "2"}


def filled(path: Path) -> Any:
    """Reads a shipped file and replaces EDIT as its user would."""
    return yaml.safe_load(path.read_text("utf-8").replace("EDIT", "filled-out:1"))


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    """cluster.yaml filled out, with a token that lies in a folder of the test."""
    found: dict[str, Any] = filled(PROJECT / "cluster.yaml")
    token = tmp_path / "auth_token"
    token.write_text("0" * 32)
    found["file_mounts"]["~/.ray/auth_token"] = str(token)
    # Each node type has a copy of its own, so that a fault is in one place.
    return copy.deepcopy(yaml.safe_load(yaml.safe_dump(found, default_flow_style=None)))


def faults(spec: dict[str, Any], folder: Path = PROJECT) -> list[Finding]:
    return [one for one in check_launcher(spec, "x.yaml", folder, HERE) if one.level != "ok"]


def test_a_filled_out_file_is_clean(spec: dict[str, Any]) -> None:
    assert faults(spec) == []
    assert check_launcher(spec, "x.yaml", PROJECT, HERE)[0].level == "ok"


@pytest.mark.parametrize("name", ["gcp.yaml", "on_premises.yaml"])
def test_the_variants_are_clean_once_filled_out(name: str, tmp_path: Path) -> None:
    spec = filled(PROJECT / "docs" / "deploy" / name)
    for place in ("token", "key"):
        (tmp_path / place).write_text("0")
    spec["file_mounts"]["~/.ray/auth_token"] = str(tmp_path / "token")
    spec["auth"]["ssh_private_key"] = str(tmp_path / "key")
    assert faults(spec) == []


def test_what_is_to_be_edited_is_listed() -> None:
    found = read_yaml(PROJECT / "cluster.yaml")
    assert isinstance(found, dict)
    where = [one.where for one in faults(found) if "EDIT" in one.what]
    assert [text.split(": ")[1] for text in where] == [
        "metadata.image",
        "metadata.security_group",
        "setup_commands.1",
    ]


def edit(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Makes a change of one dotted key; `None` takes it out."""
    *parents, last = path.split("|")

    def change(spec: dict[str, Any]) -> None:
        node: Any = spec
        for parent in parents:
            node = node[parent]
        key = int(last) if isinstance(node, list) else last
        if value is None:
            del node[key]
        else:
            node[key] = value

    return change


def without(key: str, text: str) -> Callable[[dict[str, Any]], None]:
    """Takes a text out of a list of commands."""

    def change(spec: dict[str, Any]) -> None:
        spec[key] = [command.replace(text, "") for command in spec[key]]

    return change


TYPES = "available_node_types"
HEAD = f"{TYPES}|head"
START = "head_start_ray_commands"
OPEN = [{"FromPort": 8265, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
PLANTED = {
    "unknown key": (edit("head_node", {}), "top level"),
    "no provider": (edit("provider", None), "top level"),
    "wrong type": (edit("idle_timeout_minutes", "ten"), "idle_timeout_minutes"),
    "head names nothing": (edit("head_node_type", "haed"), "head_node_type"),
    "trials on the head": (edit(f"{HEAD}|resources", {"CPU": 4}), "head.resources"),
    "no memory": (edit(f"{TYPES}|gpu_spot|resources", {"CPU": 8}), "gpu_spot.resources"),
    "no fallback": (edit(f"{TYPES}|gpu_on_demand", None), "gpu_spot"),
    "first autoscaler": (without(START, "RAY_enable_autoscaler_v2=1"), "gpu_spot"),
    "unpinned image": (edit(f"{HEAD}|node_config|ImageId", "latest_dlami"), "head.node_config"),
    "image by alias": (
        edit(f"{HEAD}|node_config|ImageId", "resolve:ssm:/aws/service/latest"),
        "head.node_config",
    ),
    "container latest": (edit("docker", {"image": "rayproject/ray:latest"}), "docker.image"),
    "no security group": (
        edit(f"{TYPES}|gpu_spot|node_config|SecurityGroupIds", None),
        "gpu_spot.node_config",
    ),
    "open security group": (
        edit("provider|security_group", {"GroupName": "x", "IpPermissions": OPEN}),
        "IpPermissions.0",
    ),
    "open dashboard": (
        edit("head_start_ray_commands|1", "RAY_AUTH_MODE=token RAY_enable_autoscaler_v2=1 "
             "ray start --head --dashboard-host=0.0.0.0"),
        "head_start_ray_commands.1",
    ),
    "Ray's own start": (edit("head_start_ray_commands", None), "head_start_ray_commands"),
    "no token mode": (without("setup_commands", "'RAY_AUTH_MODE=token'"), START),
    "token stays at home": (edit("file_mounts|~/.ray/auth_token", None), "file_mounts"),
    "token for all": (without("setup_commands", "chmod 600 ~/.ray/auth_token"), "setup_commands"),
    "no such folder": (edit("file_mounts|~/usseg_ray/usseg_ray", "useg_ray"), "usseg_ray"),
    "whole checkout": (edit("file_mounts|~/usseg_ray/usseg_ray", "."), "usseg_ray"),
    "unpinned Ray": (edit("setup_commands|7", "pip install ray[default]"), "setup_commands"),
    "two Rays": (edit("setup_commands|7", "pip install 'ray[default]==2.59.0'"), "setup_commands"),
    "no key": (edit("auth|ssh_private_key", "/nowhere/key.pem"), "auth.ssh_private_key"),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_where_it_is(
    fault: str, spec: dict[str, Any], tmp_path: Path
) -> None:
    change, where = PLANTED[fault]
    change(spec)
    found = faults(spec)
    assert found
    assert any(where in one.where for one in found), found
    assert all(one.fix for one in found)


def test_a_package_that_the_cloud_needs_is_asked_for(spec: dict[str, Any]) -> None:
    found = check_launcher(spec, "x.yaml", PROJECT, {"ray": "2.60.0"})
    assert [one.fix for one in found] == ["pip install boto3"]


def test_a_mark_before_the_file_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    assert read_yaml(path) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"a: [", "Not YAML"),
        (b"- a", "no mapping"),
        ("a: 1".encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_what_is_no_mapping_is_said_to_be_none(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    found = read_yaml(path)
    assert isinstance(found, Finding)
    assert what in found.what


@pytest.mark.parametrize(
    ("image", "is_pinned"),
    [
        ("rayproject/ray:2.60.0-py311-gpu", True),
        ("host:5000/usseg-ray:0.1.0", True),
        ("host:5000/usseg-ray", False),
        ("rayproject/ray:latest", False),
        ("rayproject/ray@sha256:0123", True),
    ],
)
def test_pinned_images(image: str, is_pinned: bool) -> None:
    assert pinned(image) is is_pinned
