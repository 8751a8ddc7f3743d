import os
import time
from functools import partial

import numpy as np
import pytest
import torch

from usseg_ray.bench_meter import Bar, apart, cpu_seconds, peak_above_inputs
from usseg_ray.config import UserError


def bar(value: float, limit: float | None) -> Bar:
    return Bar("methods", "loss", value, "CPU s", "product", 2.0, limit)


@pytest.mark.parametrize(
    ("value", "limit", "passed"), [(3.0, 1.5, True), (3.1, 1.5, False), (99.0, None, True)]
)
def test_a_bar_passes_up_to_its_limit(value: float, limit: float | None, passed: bool) -> None:
    assert bar(value, limit).passed is passed


def test_cpu_seconds_do_not_count_waiting_and_take_turns() -> None:
    turns = []

    def wait() -> None:
        turns.append("wait")
        time.sleep(0.05)

    def compute() -> None:
        turns.append("compute")
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass

    waiting, computing = cpu_seconds(wait, compute, rounds=2)
    assert turns == ["wait", "compute"] * 2
    assert waiting < 0.03 <= computing


def test_a_process_apart_has_two_threads_and_leaves_the_environment_alone() -> None:
    before = dict(os.environ)
    assert apart(torch.get_num_threads) == 2
    assert dict(os.environ) == before


def test_peak_memory_is_that_above_the_inputs() -> None:
    # 0.2 GB that are gone when the work is over.
    assert apart(peak_above_inputs, partial(np.ones, 25_000_000)) == pytest.approx(0.2, rel=0.1)


def test_a_killed_process_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="most likely because memory ran out"):
        apart(os._exit, 9)
