import mmap
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from usseg_ray import memory as subject
from usseg_ray.memory import PeakMemory, tree_bytes

MIB = 2**20
CHILD = "import sys; block = bytearray(b'x') * (%d * 2**20); print('up', flush=True); input()"

READ = "import mmap; f = open(%r, 'r+b'); m = mmap.mmap(f.fileno(), 0); m.find(b'y'); "


def child(mebibytes: int, first: str = "") -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", first + CHILD % mebibytes],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_children_count() -> None:
    before = tree_bytes(psutil.Process())
    with child(80) as process:
        during = tree_bytes(psutil.Process())
        process.communicate("\n")
    after = tree_bytes(psutil.Process())
    assert 80 * MIB < during - before < 130 * MIB
    assert after - before < 40 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells shared pages apart")
def test_pages_shared_by_two_count_once(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    path.write_bytes(b"x" * (64 * MIB))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        assert pages.find(b"y") == -1
        before = tree_bytes(psutil.Process())
        with child(0, READ % str(path)) as process:
            grown = tree_bytes(psutil.Process()) - before
            process.communicate("\n")
    assert 0 < grown < 48 * MIB


def test_the_peak_outlives_what_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "INTERVAL_S", 0.02)
    before = tree_bytes(psutil.Process())
    with PeakMemory() as memory:
        with child(80) as process:
            while memory.peak_bytes < before + 80 * MIB:
                assert process.poll() is None
            process.communicate("\n")
        assert tree_bytes(psutil.Process()) < before + 60 * MIB
    assert memory.peak_bytes > before + 80 * MIB
