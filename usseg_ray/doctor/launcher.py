"""Checks of a file for `ray up`: Ray's own schema, and what the schema does not see.

Nothing is started and no cloud is asked; what Ray would say in minutes, after machines were paid
for, or never, is said here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import ray
import yaml

from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import read_text
from usseg_ray.doctor.finding import Finding, error, ok, warning

PLACEHOLDER = "EDIT"
_WORLD = ("0.0.0.0/0", "::/0")
_RAY_PIN = re.compile(r"^\s*ray(?:\[[\w,]*\])?==([\w.]+)", re.MULTILINE)
_SOURCED = re.compile(r"(?:^|[;&\s])(?:\.|source)\s+(\S+?)(?=[;&\s]|$)")
_SDKS = {"aws": "boto3", "gcp": "google-api-python-client"}

Spec = Mapping[str, Any]


def check_launcher(
    spec: Spec, name: str, folder: Path, installed: Mapping[str, str]
) -> list[Finding]:
    """Checks a file for `ray up`.

    Args:
        spec: What the file holds.
        name: Its name, for findings.
        folder: Where `ray up` will be started; its relative paths begin there.
        installed: Packages of this interpreter, name -> version.

    Returns:
        What is wrong; one `ok` where nothing is.
    """
    found = list(_schema(spec, name))
    if not found:
        checks = (
            _placeholders(spec),
            _node_types(spec),
            _images(spec),
            _open_ports(spec),
            _token(spec),
            _mounts(spec, folder),
            _ray_version(spec, folder, installed),
            _provider(spec, installed),
        )
        found = [_at(name, finding) for check in checks for finding in check]
    return found or [ok("Ray accepts it, and nothing else was found.", name)]


def _at(name: str, found: Finding) -> Finding:
    return Finding(found.level, found.what, f"{name}: {found.where}", found.fix)


def _schema(spec: Spec, name: str) -> Iterator[Finding]:
    path = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    schema = json.loads(path.read_text("utf-8"))
    for problem in jsonschema.Draft7Validator(schema).iter_errors(spec):
        where = ".".join(map(str, problem.absolute_path)) or "top level"
        yield error(f"{problem.message[:200]}.", f"{name}: {where}", "Correct it; Ray refuses it.")


def _placeholders(spec: Spec) -> Iterator[Finding]:
    places = [where for where, text in strings(spec) if PLACEHOLDER in text]
    # What an anchor stands for is named once, where it is written.
    anchored = any(where.startswith("metadata.") for where in places)
    for where in places:
        if not (anchored and where.startswith("available_node_types.")):
            yield error("EDIT is still to be replaced.", where, "docs/cluster.md says by what.")


def strings(tree: object, where: str = "") -> Iterator[tuple[str, str]]:
    """Yields dotted path and value of every string in a tree of mappings and lists."""
    if isinstance(tree, str):
        yield where, tree
    pairs: Any = ()
    if isinstance(tree, Mapping):
        pairs = tree.items()
    elif isinstance(tree, list):
        pairs = enumerate(tree)
    for key, value in pairs:
        yield from strings(value, f"{where}.{key}" if where else str(key))


def _node_types(spec: Spec) -> Iterator[Finding]:
    types, head = spec.get("available_node_types") or {}, spec.get("head_node_type")
    if not types:
        return
    if head not in types:
        names = ", ".join(types)
        yield error(f"{head!r} names no node type.", "head_node_type", f"Name one of: {names}.")
        return
    if types[head]["resources"].get("CPU") != 0:
        yield warning(
            "Trials may be placed on the head, beside the driver that they depend on.",
            f"available_node_types.{head}.resources",
            "resources: {CPU: 0, GPU: 0, memory: 0}",
        )
    workers = {name: one for name, one in types.items() if name != head}
    for name, one in workers.items():
        if "memory" not in one["resources"]:
            yield error(
                "Without memory no machine is started for a trial of several workers, which waits.",
                f"available_node_types.{name}.resources",
                "memory: 24000000000  # bytes, less than the machine has",
            )
    yield from _fallback(workers, " ".join(spec.get("head_start_ray_commands", [])))


def _fallback(workers: Mapping[str, Spec], start: str) -> Iterator[Finding]:
    spot = [name for name, one in workers.items() if _is_spot(one["node_config"])]
    if not spot:
        return
    others = [name for name in workers if name not in spot]
    first = max((workers[name].get("priority", 0) for name in spot), default=0)
    second = max((workers[name].get("priority", 0) for name in others), default=0)
    if not others or first <= second or "RAY_enable_autoscaler_v2=1" not in start:
        yield warning(
            "Where no spot machine can be had, a sweep waits for one for ever.",
            f"available_node_types.{spot[0]}",
            "Add a type on demand with a lower priority, and RAY_enable_autoscaler_v2=1 before "
            "`ray start --head`: Ray's first autoscaler knows neither priorities nor failures.",
        )


def _is_spot(config: Spec) -> bool:
    text = json.dumps(config).lower()
    return '"markettype": "spot"' in text or '"preemptible": true' in text or '"spot"' in text


def _images(spec: Spec) -> Iterator[Finding]:
    kind = spec["provider"]["type"]
    for name, one in (spec.get("available_node_types") or {}).items():
        where, config = f"available_node_types.{name}.node_config", one["node_config"]
        image = str(config.get("ImageId", "latest_dlami")) if kind == "aws" else ""
        if image == "latest_dlami" or image.startswith("resolve:"):
            fix = "ImageId: ami-...; docs/cluster.md has the command that prints one"
            yield error("The image is not pinned: it changes under you.", where, fix)
        sources = [text for key, text in strings(config) if key.endswith("sourceImage")]
        if any("/family/" in text for text in sources):
            fix = "gcloud compute images list shows the family's images; name one."
            yield error("The image is a family, not one image: it changes.", where, fix)
    for key, image in (spec.get("docker") or {}).items():
        if key.endswith("image") and not pinned(str(image)):
            yield error(f"{image} is not pinned.", f"docker.{key}", "Name a tag other than latest.")


def pinned(image: str) -> bool:
    """Tells whether a container image is named with a digest, or a tag other than latest."""
    tag = image.rpartition("/")[2].partition(":")[2]
    return "@sha256:" in image or tag not in ("", "latest")


def _open_ports(spec: Spec) -> Iterator[Finding]:
    provider = spec["provider"]
    if provider["type"] == "aws":
        yield from _security_group(spec)
    if provider["type"] == "gcp":
        for name, one in (spec.get("available_node_types") or {}).items():
            if "networkInterfaces" not in one["node_config"]:
                yield error(
                    "Google's default network admits SSH from anywhere.",
                    f"available_node_types.{name}.node_config",
                    "networkInterfaces: a subnetwork of your own, as in docs/deploy/gcp.yaml",
                )
    start = spec.get("head_start_ray_commands")
    if start is None and provider["type"] != "local":
        yield error(
            "Ray's own start command opens the dashboard on every interface.",
            "head_start_ray_commands",
            "Write the command out, with --dashboard-host=127.0.0.1.",
        )
    for number, command in enumerate(start or []):
        opened = re.search(r"--(?:dashboard-)?host[= ](?!127\.|localhost|::1)(\S+)", command)
        if opened:
            yield error(
                f"A dashboard listens on {opened[1]}, for everybody who reaches the head.",
                f"head_start_ray_commands.{number}",
                "Give it 127.0.0.1 and reach it by `ray dashboard` or `ray attach -p 5000`.",
            )


def _security_group(spec: Spec) -> Iterator[Finding]:
    rules = (spec["provider"].get("security_group") or {}).get("IpPermissions", [])
    for number, rule in enumerate(rules):
        if any(text in _WORLD for _, text in strings(rule)):
            yield error(
                f"Port {rule.get('FromPort', 'any')} is open to the world.",
                f"provider.security_group.IpPermissions.{number}",
                "Give it your own address, as 203.0.113.7/32, or take the rule out.",
            )
    for name, one in (spec.get("available_node_types") or {}).items():
        if not one["node_config"].get("SecurityGroupIds"):
            yield error(
                "Without a security group Ray makes one that admits SSH from anywhere.",
                f"available_node_types.{name}.node_config",
                "SecurityGroupIds: [sg-...]; docs/cluster.md has the commands that make one",
            )


def _token(spec: Spec) -> Iterator[Finding]:
    setup = "\n".join(spec.get("setup_commands", []))
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in spec.get(key, []) if "ray start" in command]
        if not starts or not all(_has_token_mode(command, setup) for command in starts):
            yield error(
                "Ray starts without asking for a token: whoever reaches a port runs any program.",
                key,
                "export RAY_AUTH_MODE=token; before `ray start`",
            )
    if not any(".ray/auth_token" in place for place in spec.get("file_mounts", {})):
        yield error(
            "The token does not reach the machines, which then refuse each other.",
            "file_mounts",
            "~/.ray/auth_token: ~/.ray/auth_token",
        )
    elif not re.search(r"chmod 0?[64]00 \S*auth_token", setup):
        yield warning(
            "Nothing makes the token its owner's alone on the machines.",
            "setup_commands",
            "- chmod 600 ~/.ray/auth_token",
        )


def _has_token_mode(command: str, setup: str) -> bool:
    sourced = any(path in setup for path in _SOURCED.findall(command))
    return "RAY_AUTH_MODE=token" in command or (sourced and "RAY_AUTH_MODE=token" in setup)


def _mounts(spec: Spec, folder: Path) -> Iterator[Finding]:
    key = (spec.get("auth") or {}).get("ssh_private_key")
    sources = {f"file_mounts.{place}": text for place, text in spec.get("file_mounts", {}).items()}
    if key and key != PLACEHOLDER:
        sources["auth.ssh_private_key"] = key
    for where, text in sources.items():
        path = folder / Path(str(text)).expanduser()
        if not path.exists():
            token = "auth_token" in str(text)
            made = "ray get-auth-token --generate && chmod 600 ~/.ray/auth_token"
            fix = made if token else f"Correct it, or start in the folder that holds {text}."
            yield error(f"There is no {text}.", where, fix)
        elif path.is_dir() and any((path / name).exists() for name in (".venv", ".git", "runs")):
            yield warning(
                f"Ray reads all of {path} before it starts, .venv, .git and runs too.",
                where,
                "Mount single folders, as cluster.yaml does.",
            )


def _ray_version(spec: Spec, folder: Path, installed: Mapping[str, str]) -> Iterator[Finding]:
    setup = "\n".join(spec.get("setup_commands", []))
    texts = [re.sub(r"[\s'\"]+", "\n", setup)]
    for place, source in spec.get("file_mounts", {}).items():
        path = folder / Path(str(source)).expanduser()
        if Path(place).name in setup and path.suffix == ".txt" and path.is_file():
            texts.append(read_text(path))
    versions = {version for text in texts for version in _RAY_PIN.findall(text)}
    own = installed.get("ray")
    if not versions and setup:
        yield error(
            "Ray's version is not pinned: machines that start later get another one.",
            "setup_commands",
            "Install with --constraint docs/deploy/constraints.txt, or ray[default]==" + str(own),
        )
    for version in sorted(versions - {own}):
        yield error(
            f"The machines get Ray {version}, here is {own}: they do not speak to each other.",
            "setup_commands",
            f"pip install 'ray[default]=={version}' here, or change the pin.",
        )


def _provider(spec: Spec, installed: Mapping[str, str]) -> Iterator[Finding]:
    package = _SDKS.get(spec["provider"]["type"])
    if package and package not in installed:
        yield error(f"`ray up` needs {package}.", "provider.type", f"pip install {package}")


def read_yaml(path: Path) -> Spec | Finding:
    """Reads a file with one mapping; what hinders is a finding."""
    try:
        spec = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, UserError) as problem:
        return error(" ".join(f"Not YAML: {problem}".split())[:300], str(path), "Correct it.")
    if not isinstance(spec, Mapping):
        return error("It holds no mapping of keys.", str(path), "Begin with cluster.yaml.")
    return spec
