"""What a result may depend on and no setting says: versions, the commit, the processors.

Beside `tracking`, which writes these as tags of the sweep's run. Everything comes from a fixed
list: environment variables hold secrets, and are not read.
"""

import contextlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mlflow.utils import mlflow_tags

from usseg_ray import __version__
from usseg_ray.machine import cpu_name, vector_instructions

_PACKAGES = ("torch", "ray", "mlflow", "timm", "faiss-gpu", "faiss-cpu")


def environment() -> dict[str, str]:
    """Names versions of packages, in a checkout the git commit, and this machine's processors.

    Returns:
        Tag -> value.
    """
    python = platform.python_version()
    tags = {
        "usseg.version.usseg_ray": __version__,
        "usseg.version.python": python,
        "usseg.machine.cpu": cpu_name(),
        "usseg.machine.vector_instructions": vector_instructions(),
    }
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            tags[f"usseg.version.{package}"] = version(package)
    root = Path(__file__).parents[2]
    if (root / ".git").exists():  # an installed copy may lie inside somebody else's repository
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            commit = subprocess.check_output(
                command, cwd=root, text=True, stderr=subprocess.DEVNULL
            )
            tags[mlflow_tags.MLFLOW_GIT_COMMIT] = commit.strip()
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # Not by torch, which would take memory on the GPU for as long as the sweep runs.
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found = subprocess.check_output(asked, text=True, stderr=subprocess.DEVNULL)
        tags["usseg.machine.gpu"] = "; ".join(sorted(set(found.strip().splitlines())))
    return tags
