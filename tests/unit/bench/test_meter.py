import os
import platform
import time
from functools import partial

import numpy as np
import psutil
import pytest
import torch

from usseg_ray.bench.meter import (
    Measure,
    apart,
    cpu_seconds,
    kernel_seconds,
    least_seconds,
    matmul_peak,
    peak_above_inputs,
    product,
    product_flops,
    return_what_is_freed,
    synchronised,
)
from usseg_ray.core.errors import UserError


def bar(value: float, limit: float | None, unit: str = "CPU s") -> Measure:
    return Measure("methods", "loss", value, unit, "product", 2.0, limit)


@pytest.mark.parametrize(
    ("value", "limit", "passed"), [(3.0, 1.5, True), (3.1, 1.5, False), (99.0, None, True)]
)
def test_a_bar_passes_up_to_its_limit(value: float, limit: float | None, passed: bool) -> None:
    assert bar(value, limit).passed is passed


@pytest.mark.parametrize(("value", "passed"), [(3.0, True), (2.9, False)])
@pytest.mark.parametrize("unit", ["MB/s", "rows/s", "%"])
def test_of_rates_a_bar_is_the_least(unit: str, value: float, passed: bool) -> None:
    assert bar(value, 1.5, unit).passed is passed


def test_a_figure_without_a_reference_has_no_ratio_and_misses_nothing() -> None:
    alone = Measure("crf", "exact", 2.0, "ms/image", "absent", None, 1.0)
    assert alone.ratio is None
    assert alone.passed


def test_least_seconds_take_turns_and_count_waiting() -> None:
    turns = []

    def work(name: str, seconds: float) -> None:
        turns.append(name)
        time.sleep(seconds)

    works = [partial(work, "long", 0.06), partial(work, "short", 0.01)]
    long, short = least_seconds(*works, rounds=2)
    assert turns == ["long", "short"] * 2
    assert short < 0.05 < long


def test_a_product_is_one_of_its_type() -> None:
    found = product(8, torch.device("cpu"), torch.bfloat16)()
    assert isinstance(found, torch.Tensor)
    assert (found.shape, found.dtype) == ((8, 8), torch.bfloat16)


def test_flop_are_those_of_products_added_ones_in_place_too() -> None:
    total, first, second = torch.zeros(2, 4), torch.ones(2, 3), torch.ones(3, 4)

    def work() -> None:
        first @ second
        total.addmm_(first, second)

    assert product_flops(work) == 2 * (2 * 2 * 3 * 4)


def test_the_peak_is_more_than_a_small_product_reaches() -> None:
    cpu = torch.device("cpu")
    (once,) = least_seconds(synchronised(product(4, cpu, torch.float32), cpu), rounds=3)
    assert matmul_peak(cpu, torch.float32, rounds=1) > 2 * 4**3 / once


def test_operators_take_no_time_while_the_process_sleeps() -> None:
    matrix = torch.randn(64, 64)

    def work() -> None:
        matrix @ matrix
        time.sleep(0.2)

    assert 0 < kernel_seconds(work, torch.device("cpu")) < 0.1


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


def kept_bytes() -> int:
    """Frees ten blocks of 2 MB below one that stays, and says what is left."""
    return_what_is_freed()
    before: int = psutil.Process().memory_info().rss
    blocks = [np.ones(250_000) for _ in range(11)]
    del blocks[:-1]
    kept: int = psutil.Process().memory_info().rss - before
    return kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone")
def test_a_process_that_measures_memory_keeps_nothing_that_was_freed() -> None:
    assert 0 < apart(kept_bytes) < 4e6


def test_a_killed_process_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="most likely because memory ran out"):
        apart(os._exit, 9)
