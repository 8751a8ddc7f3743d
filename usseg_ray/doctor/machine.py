"""Checks of this machine: versions, GPU and driver, faiss, room on disks and in shared memory.

Each takes the facts as arguments and looks them up where none are given.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from usseg_ray.cluster import join
from usseg_ray.core.errors import UserError
from usseg_ray.data.library import cache_root
from usseg_ray.doctor.finding import Finding, error, ok, warning

FLOORS = {
    "ray": ">=2.60,<2.62",
    "torch": ">=2.6",
    "mlflow": ">=3.17",
    "timm": ">=1.0.28",
    "pyarrow": ">=17",
    "optuna": ">=4.0,<6",
}
FAISS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12")
# What `ray job submit` and the dashboard import, and plain Ray does not bring.
JOB_PACKAGES = ("aiohttp-cors", "opencensus", "prometheus-client")
MIN_FREE_BYTES = 10 * 10**9
MIN_SHM_BYTES = 2 * 10**9


def installed_versions() -> dict[str, str]:
    """Lists the packages of this interpreter, name -> version."""
    return {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}


def check_versions(
    installed: Mapping[str, str], python: tuple[int, ...] = sys.version_info[:3]
) -> list[Finding]:
    """Compares Python and the packages that results and protocols depend on with their floors.

    Args:
        installed: Package -> version.
        python: Version of the interpreter.

    Returns:
        A finding for Python and one a package.
    """
    own = ".".join(map(str, python))
    found = [
        ok(f"Python {own}", "python")
        if python >= (3, 11)
        else error(f"Python {own} is older than 3.11.", "python", "uv venv --python 3.11 .venv")
    ]
    for name, allowed in FLOORS.items():
        version = installed.get(name)
        if version is None:
            found.append(error("It is not installed.", name, f"pip install '{name}{allowed}'"))
        elif not SpecifierSet(allowed).contains(Version(version), prereleases=True):
            found.append(
                error(
                    f"{version} is installed, usseg_ray needs {allowed}.",
                    name,
                    f"pip install '{name}{allowed}'",
                )
            )
        else:
            found.append(ok(version, name))
    return found


def check_faiss(installed: Mapping[str, str], gpus: int) -> list[Finding]:
    """Says which faiss is in use; two variants in one environment overwrite each other's files.

    Args:
        installed: Package -> version.
        gpus: GPUs of this machine.

    Returns:
        One finding.
    """
    variants = [name for name in FAISS if name in installed]
    if len(variants) > 1:
        remove = f"pip uninstall -y {' '.join(variants)}"
        return [
            error(
                f"{' and '.join(variants)} are both installed and own the same files.",
                "faiss",
                f"{remove} && pip install {variants[-1] if gpus else variants[0]}",
            )
        ]
    if not variants:
        return [error("faiss is not installed.", "faiss", "pip install faiss-cpu")]
    name = variants[0]
    if gpus and name == "faiss-cpu":
        return [
            warning(
                "This machine has a GPU, and faiss-cpu cannot use it.",
                "faiss",
                "pip uninstall -y faiss-cpu && pip install faiss-gpu",
            )
        ]
    return [ok(f"{name} {installed[name]}", "faiss")]


def check_jobs(installed: Mapping[str, str]) -> list[Finding]:
    """Says whether Ray's jobs and dashboard can be used: they take `ray[default]`."""
    lacking = [name for name in JOB_PACKAGES if name not in installed]
    if lacking:
        return [
            warning(
                f"`ray job submit` and `ray dashboard` lack {', '.join(lacking)}.",
                "ray[default]",
                "pip install 'usseg-ray[cluster]'",
            )
        ]
    return [ok("jobs and dashboard can be used", "ray[default]")]


def driver_version() -> str | None:
    """Asks `nvidia-smi` for the driver's version; None without an NVIDIA driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else None


def check_gpu(driver: str | None, cuda: str | None, devices: list[str]) -> list[Finding]:
    """Compares what the driver offers with what PyTorch sees.

    Args:
        driver: Version of the NVIDIA driver, if there is one.
        cuda: CUDA version that PyTorch was built for, if any.
        devices: GPUs that PyTorch can use.

    Returns:
        One finding.
    """
    if devices:
        names = ", ".join(dict.fromkeys(devices))
        return [ok(f"{len(devices)} x {names}, driver {driver}, CUDA {cuda}", "GPU")]
    if driver is None:
        return [ok("none; runs use the CPU", "GPU")]
    if cuda is None:
        what = f"There is a GPU (driver {driver}), and PyTorch was built without CUDA."
        return [error(what, "GPU", "pip uninstall -y torch && pip install torch")]
    return [
        error(
            f"Driver {driver} offers no GPU to PyTorch, which was built for CUDA {cuda}.",
            "GPU",
            "Update the driver, or install a PyTorch for its CUDA; see CUDA_VISIBLE_DEVICES, too.",
        )
    ]


def check_folder(folder: Path, need_bytes: int = MIN_FREE_BYTES) -> list[Finding]:
    """Writes a file where runs, features or Ray's files go, and looks at the room beside it.

    Args:
        folder: A folder, which need not exist yet.
        need_bytes: Room that is wanted.

    Returns:
        One finding.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"usseg")
            file.flush()
    except OSError as problem:
        return [
            error(
                f"Nothing can be written there: {problem.strerror}.",
                str(folder),
                "Give its owner the right to write, make room, or name another folder.",
            )
        ]
    free = shutil.disk_usage(there).free
    if free < need_bytes:
        return [
            error(
                f"{free / 1e9:.1f} GB are free, {need_bytes / 1e9:.0f} GB are wanted.",
                str(folder),
                "Make room (python -m usseg_ray.features rm, old runs), or name another folder.",
            )
        ]
    return [ok(f"{free / 1e9:.0f} GB free", str(folder))]


def check_shm(folder: Path = Path("/dev/shm"), need_bytes: int = MIN_SHM_BYTES) -> list[Finding]:
    """Looks at the room for Ray's object store, which falls back to a slow disk without it."""
    if not folder.exists():
        return []
    free = shutil.disk_usage(folder).free
    if free < need_bytes:
        return [
            warning(
                f"{free / 1e9:.2f} GB are free for Ray's object store, {need_bytes / 1e9:.0f} GB "
                "are wanted.",
                str(folder),
                "In a container: docker run --shm-size=8g; Kubernetes: an emptyDir in Memory.",
            )
        ]
    return [ok(f"{free / 1e9:.0f} GB free", str(folder))]


def check_sockets(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Looks at the names of Ray's sockets, which a long folder for temporary files makes too long.

    Args:
        environment: Variables of this process.
    """
    try:
        join.check_socket_folder(environment)
    except UserError as problem:
        what, _, fix = str(problem).rpartition(": ")
        return [error(f"{what}.", "Ray's folder", fix)]
    return []


def working_folders(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Lists where a run writes: here, Ray's files, prepared data and stored features."""
    ray = Path(environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or "/tmp") / "ray"
    features = environment.get("USSEG_FEATURES")
    stored = [Path(features).expanduser().absolute()] if features else []
    return [Path.cwd(), ray, cache_root(), *stored]
