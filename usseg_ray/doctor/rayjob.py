"""Checks of a RayJob or RayCluster for the KubeRay operator.

The operator accepts much that does not work: a cluster without a token, an image of another Ray,
a shared memory of 64 MiB.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from usseg_ray.doctor.finding import Finding, error, ok, warning
from usseg_ray.doctor.launcher import PLACEHOLDER, Spec, pinned, strings

_GROUP = {
    "type": "object",
    "required": ["template"],
    "properties": {
        "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
        "template": {
            "type": "object",
            "required": ["spec"],
            "properties": {"spec": {"type": "object", "required": ["containers"]}},
        },
    },
}
_CLUSTER = {
    "type": "object",
    "required": ["headGroupSpec"],
    "properties": {
        "headGroupSpec": _GROUP,
        "workerGroupSpecs": {
            "type": "array",
            "items": {**_GROUP, "required": ["template", "groupName"]},
        },
    },
}
_SCHEMA = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"enum": ["RayJob", "RayCluster"]},
        "metadata": {"type": "object", "required": ["name"]},
    },
    "if": {"properties": {"kind": {"const": "RayJob"}}},
    "then": {
        "properties": {
            "spec": {
                "type": "object",
                "required": ["entrypoint", "rayClusterSpec"],
                "properties": {"entrypoint": {"type": "string"}, "rayClusterSpec": _CLUSTER},
            }
        }
    },
    "else": {"properties": {"spec": _CLUSTER}},
}


def check_rayjob(spec: Spec, name: str, installed: Mapping[str, str]) -> list[Finding]:
    """Checks a file for `kubectl apply`.

    Args:
        spec: What the file holds.
        name: Its name, for findings.
        installed: Packages of this interpreter, name -> version.

    Returns:
        What is wrong; one `ok` where nothing is.
    """
    found = [
        error(
            f"{problem.message[:200]}.",
            f"{name}: {'.'.join(map(str, problem.absolute_path)) or 'top level'}",
            "Correct it; docs/deploy/kuberay_rayjob.yaml has the form.",
        )
        for problem in jsonschema.Draft7Validator(_SCHEMA).iter_errors(spec)
    ]
    if not found:
        found = [
            Finding(one.level, one.what, f"{name}: {one.where}", one.fix)
            for one in _beyond_the_schema(spec, installed.get("ray"))
        ]
    return found or [ok("Its form is right, and nothing else was found.", name)]


def _beyond_the_schema(spec: Spec, own_ray: str | None) -> Iterator[Finding]:
    for where, text in strings(spec):
        if PLACEHOLDER in text:
            yield error("EDIT is still to be replaced.", where, "docs/cluster.md says by what.")
    cluster = spec["spec"]["rayClusterSpec"] if spec["kind"] == "RayJob" else spec["spec"]
    if (cluster.get("authOptions") or {}).get("mode") != "token":
        yield error(
            "Every pod that reaches the cluster may run any program on it.",
            "authOptions",
            "authOptions: {mode: token}, with KubeRay 1.6 or newer",
        )
    version = cluster.get("rayVersion")
    if version is None or version != own_ray:
        what = f"rayVersion is {version}, here Ray {own_ray} is installed."
        yield warning(what, "rayVersion", f'rayVersion: "{own_ray}", and an image with it')
    for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])):
        yield from _pods(group, version)
    if spec["kind"] == "RayJob" and not spec["spec"].get("shutdownAfterJobFinishes"):
        yield warning(
            "The cluster stays, and costs, when the job has ended.",
            "spec.shutdownAfterJobFinishes",
            "shutdownAfterJobFinishes: true",
        )


def _pods(group: Mapping[str, Any], version: str | None) -> Iterator[Finding]:
    pod, name = group["template"]["spec"], group.get("groupName", "head")
    for container in pod["containers"]:
        image, where = str(container.get("image", "")), f"{name}: image"
        if PLACEHOLDER not in image and not pinned(image):
            yield error(f"{image} is not pinned.", where, "Name a tag other than latest.")
        elif "rayproject/ray" in image and version and f":{version}" not in image:
            what = f"{image} is not Ray {version}: nodes would not speak to each other."
            yield error(what, where, f"rayproject/ray:{version}-py311-gpu")
        paths = [mount.get("mountPath") for mount in container.get("volumeMounts", [])]
        if "/dev/shm" not in paths:
            yield warning(
                "Kubernetes gives 64 MiB of shared memory; Ray's object store then uses the disk.",
                f"{name}: volumeMounts",
                "Mount an emptyDir with medium: Memory at /dev/shm.",
            )
