"""What is said of this machine is what a process there finds."""

import mmap
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from usseg_ray.core import machine as subject
from usseg_ray.core.errors import UserError
from usseg_ray.core.machine import (
    PeakMemory,
    chosen_device,
    cpu_name,
    tree_bytes,
    usable_cpus,
    vector_instructions,
)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="CPUs cannot be taken away here")
def test_cpus_that_a_process_may_not_use_do_not_count() -> None:
    mine = os.sched_getaffinity(0)
    assert usable_cpus() == len(mine)
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, mine)


def test_narrower_instructions_are_named_where_they_are_asked_for() -> None:
    code = "from usseg_ray.core.machine import vector_instructions as name; print(name())"
    asked = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=asked) == (
        "DEFAULT\n"
    )
    assert vector_instructions().isupper()


def test_the_processor_has_a_name() -> None:
    assert cpu_name().strip()


MIB = 2**20

LARGE = 600
"""In MiB. A process that starts elsewhere on the machine and loads the same libraries makes each
that shares them smaller, by 180 MB for PyTorch's and others'; half of this is more."""

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
    with child(LARGE) as process:
        during = tree_bytes(psutil.Process())
        process.communicate("\n")
    after = tree_bytes(psutil.Process())
    assert LARGE / 2 * MIB < during - before < LARGE * 1.5 * MIB
    assert after - before < LARGE / 2 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells shared pages apart")
def test_pages_shared_by_two_count_once(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    path.write_bytes(b"x" * (LARGE * MIB))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        assert pages.find(b"y") == -1
        before = tree_bytes(psutil.Process())
        with child(0, READ % str(path)) as process:
            grown = tree_bytes(psutil.Process()) - before
            process.communicate("\n")
    assert grown < LARGE / 2 * MIB


def test_the_peak_outlives_what_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "INTERVAL_S", 0.02)
    before = tree_bytes(psutil.Process())
    with PeakMemory() as memory:
        with child(LARGE) as process:
            ends = time.monotonic() + 30
            while memory.peak_bytes < before + LARGE / 2 * MIB and time.monotonic() < ends:
                time.sleep(0.02)
            process.communicate("\n")
        assert tree_bytes(psutil.Process()) < before + LARGE / 2 * MIB
    assert memory.peak_bytes > before + LARGE / 2 * MIB


def test_sizes_are_read_only_where_they_may_be_a_new_peak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Estimates and sizes; the second estimate is of a process that has just been forked.
    moments = [(50, 60), (95, 61), (40, 0), (50, 0), (55, 66), (54, 0)]
    read, done = list[int](), threading.Event()

    def estimated(_: psutil.Process) -> int:
        moments.append(moments.pop(0))
        if len(read) == 3:
            done.set()
        return moments[-1][0] if not done.is_set() else 0

    def sized(_: psutil.Process) -> int:
        read.append(moments[-1][1])
        return read[-1]

    monkeypatch.setattr(subject, "INTERVAL_S", 0.001)
    monkeypatch.setattr(subject, "READ_ANYWAY", 10**9)
    monkeypatch.setattr(subject, "_estimated_bytes", estimated)
    monkeypatch.setattr(subject, "tree_bytes", sized)
    with PeakMemory() as memory:
        assert done.wait(10)
    assert read == [60, 61, 66]
    assert memory.peak_bytes == 66


def test_a_peak_is_found_though_the_first_look_met_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    estimates, sizes, seen = iter([500]), iter([60]), threading.Event()

    def sized(_: psutil.Process) -> int:
        size = next(sizes, 90)
        if size == 90:
            seen.set()
        return size

    monkeypatch.setattr(subject, "INTERVAL_S", 0.001)
    monkeypatch.setattr(subject, "_estimated_bytes", lambda _: next(estimates, 80))
    monkeypatch.setattr(subject, "tree_bytes", sized)
    with PeakMemory() as memory:
        assert seen.wait(10)
    assert memory.peak_bytes == 90


def test_a_device_is_chosen_and_one_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {chosen_device(asked) for asked in (None, "auto", "cpu")} == {"cpu"}
    with pytest.raises(UserError, match="--device cuda: PyTorch sees no GPU"):
        chosen_device("cuda")
    with pytest.raises(UserError, match="--device tpu: one of auto, cpu and cuda"):
        chosen_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (chosen_device(None), chosen_device("cpu")) == ("cuda", "cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_what_was_freed_goes_back_to_the_system() -> None:
    code = """if True:
    import psutil, torch
    from usseg_ray.core.machine import give_memory_back
    blocks = [torch.ones(2**18) for _ in range(256)]
    held, last = psutil.Process().memory_info().rss, blocks[-1]
    del blocks
    kept = psutil.Process().memory_info().rss
    give_memory_back()
    print(held - kept >> 20, held - psutil.Process().memory_info().rss >> 20)
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, given = map(int, found.stdout.split())
    assert kept < 64
    assert given > 200
