"""Old packages, two faiss, a GPU without its driver, places without room or right to write."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.conftest import PROJECT
from usseg_ray.doctor import machine

GOOD = {
    "ray": "2.60.0",
    "torch": "2.15.0",
    "mlflow": "3.17.2",
    "timm": "1.0.31",
    "pyarrow": "25.0.1",
    "optuna": "5.0.0",
    "faiss-gpu": "1.15.1",
}


def levels(found: list[machine.Finding]) -> dict[str, str]:
    return {one.where: one.level for one in found}


def test_what_the_project_needs_is_fine() -> None:
    assert set(levels(machine.check_versions(GOOD)).values()) == {"ok"}
    assert "ray" in machine.installed_versions()


def test_its_bounds_are_those_that_the_package_is_installed_with() -> None:
    asked = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = {one.name: one.specifier for one in map(Requirement, asked)}
    for name, allowed in machine.FLOORS.items():
        assert SpecifierSet(allowed) == bounds[name], name


@pytest.mark.parametrize(
    ("name", "version"),
    [("mlflow", "3.16.9"), ("torch", "2.5.1"), ("ray", "2.59.0"), ("ray", "2.62.0")],
)
def test_a_version_outside_of_its_bounds_is_an_error(name: str, version: str) -> None:
    found = machine.check_versions(GOOD | {name: version})
    assert [where for where, level in levels(found).items() if level == "error"] == [name]
    assert any(version in one.what and name in one.fix for one in found)


def test_an_old_python_and_a_lacking_package_are_errors() -> None:
    lacking = {name: version for name, version in GOOD.items() if name != "timm"}
    found = levels(machine.check_versions(lacking, python=(3, 10, 4)))
    assert (found["python"], found["timm"]) == ("error", "error")


@pytest.mark.parametrize(
    ("variants", "gpus", "level"),
    [
        (["faiss-cpu", "faiss-gpu"], 0, "error"),
        (["faiss-gpu", "faiss-gpu-cu12"], 1, "error"),
        ([], 0, "error"),
        (["faiss-cpu"], 1, "warning"),
        (["faiss-cpu"], 0, "ok"),
        (["faiss-gpu"], 0, "ok"),
    ],
)
def test_exactly_one_faiss_is_wanted(variants: list[str], gpus: int, level: str) -> None:
    (found,) = machine.check_faiss(dict.fromkeys(variants, "1.15.1"), gpus)
    assert found.level == level
    assert (found.fix == "") == (level == "ok")


def test_two_faiss_leave_the_one_that_fits_the_machine() -> None:
    both = dict.fromkeys(("faiss-cpu", "faiss-gpu"), "1.15.1")
    assert machine.check_faiss(both, 1)[0].fix.endswith("pip install faiss-gpu")
    assert machine.check_faiss(both, 0)[0].fix.endswith("pip install faiss-cpu")


def test_plain_ray_cannot_submit_jobs() -> None:
    (found,) = machine.check_jobs({"ray": "2.60.0", "opencensus": "0.11"})
    assert found.level == "warning"
    assert "aiohttp-cors" in found.what


@pytest.mark.parametrize(
    ("driver", "cuda", "devices", "level", "says"),
    [
        (None, None, [], "ok", "CPU"),
        ("580.65.06", "13.2", ["NVIDIA L4"], "ok", "NVIDIA L4"),
        ("470.82.01", "13.2", [], "error", "470.82.01"),
        ("580.65.06", None, [], "error", "without CUDA"),
    ],
)
def test_gpu_and_driver(
    driver: str | None, cuda: str | None, devices: list[str], level: str, says: str
) -> None:
    (found,) = machine.check_gpu(driver, cuda, devices)
    assert found.level == level
    assert says in found.what


def test_a_folder_that_is_not_there_yet_counts_as_its_parent(tmp_path: Path) -> None:
    (found,) = machine.check_folder(tmp_path / "a" / "b", need_bytes=1)
    assert found.level == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error() -> None:
    # Of the kernel; not even root makes files in it.
    (found,) = machine.check_folder(Path("/proc/self"), need_bytes=1)
    assert found.level == "error"
    assert "Nothing can be written" in found.what


def test_a_disk_without_room_is_an_error(tmp_path: Path) -> None:
    (found,) = machine.check_folder(tmp_path, need_bytes=2**60)
    assert found.level == "error"
    assert "GB are free" in found.what


def test_small_shared_memory_is_a_warning(tmp_path: Path) -> None:
    assert machine.check_shm(tmp_path, need_bytes=2**60)[0].level == "warning"
    assert machine.check_shm(tmp_path, need_bytes=1)[0].level == "ok"
    assert machine.check_shm(tmp_path / "none") == []


def test_where_a_run_writes() -> None:
    assert Path.cwd() in machine.working_folders({})
    assert Path("/x/ray") in machine.working_folders({"RAY_TMPDIR": "/x"})
    assert Path("/y") in machine.working_folders({"USSEG_FEATURES": "/y"})


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_too_long_for_ray_is_an_error(variable: str) -> None:
    (found,) = machine.check_sockets({variable: "/scratch/" + 90 * "x"})
    assert (found.level, found.fix) == ("error", "export RAY_TMPDIR=/tmp")
    assert found.what.startswith(f"{variable}=/scratch/")
    assert machine.check_sockets({variable: "/scratch/x"}) == []
