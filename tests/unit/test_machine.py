"""What is said of this machine is what a process there finds."""

import os
import subprocess
import sys

import pytest

from usseg_ray.machine import cpu_name, usable_cpus, vector_instructions


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
    code = "from usseg_ray.machine import vector_instructions as name; print(name())"
    asked = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=asked) == (
        "DEFAULT\n"
    )
    assert vector_instructions().isupper()


def test_the_processor_has_a_name() -> None:
    assert cpu_name().strip()
