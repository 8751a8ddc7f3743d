"""What is installed elsewhere: the wheel, the source archive, and the image for containers."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hatchling import build

PROJECT = Path(__file__).parents[2]


def built(folder: Path) -> dict[str, bytes]:
    """Builds the wheel and the source archive."""
    folder.mkdir()
    for kind in (build.build_wheel, build.build_sdist):
        kind(str(folder))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_built_twice_is_the_same_and_runs_outside_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    first, second = built(tmp_path / "first"), built(tmp_path / "second")
    assert sorted(Path(name).suffix for name in first) == [".gz", ".whl"]
    assert first == second
    (wheel,) = (tmp_path / "first").glob("*.whl")
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, timeout=120)
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    monkeypatch.chdir(outside)
    code = (
        "import usseg_ray, usseg_ray.sweeps.space as space;"
        "print(usseg_ray.__file__, space.find_space('acseg'))"
    )
    environment = {"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout.split()
    assert found == [
        str(target / "usseg_ray" / "__init__.py"),
        str(target / "usseg_ray" / "search_spaces" / "acseg.yaml"),
    ]
    shown = subprocess.run(
        [sys.executable, "-m", "usseg_ray", "tune", "--method", "acseg", "--dry-run"],
        env=environment | {"HOME": str(outside)},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout
    assert "6 trials" in shown


@pytest.mark.lengthy
def test_the_container_runs_the_first_command() -> None:
    server = ["docker", "version", "--format", "{{.Server.Version}}"]
    if not shutil.which("docker") or subprocess.run(server, check=False).returncode:
        pytest.skip("no Docker, or its daemon is not running")
    asked = ["docker", "build", "-q", "-f", "docs/deploy/Dockerfile", "."]
    image = subprocess.run(
        asked, cwd=PROJECT, check=True, capture_output=True, text=True, timeout=3600
    ).stdout.strip()
    run = ["docker", "run", "--rm", "--shm-size", "2g", image]
    done = subprocess.run(run, check=True, capture_output=True, text=True, timeout=900)
    assert "kmeans (context)" in done.stdout
