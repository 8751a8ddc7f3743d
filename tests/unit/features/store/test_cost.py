from pathlib import Path
from typing import Any

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.features.store.cost import (
    PROBE_BYTES,
    Decision,
    Disk,
    Speed,
    decide,
    duration,
    measure_disk,
    size,
)

COCO = 118_287
SMALL_VIT = 384 * 28 * 28 * 2
SSD = Disk(write=1e9, read=2e9, cached=6e9, room=10**12, memory=64 * 10**9)
LAPTOP = Speed(decode=1 / 200, compute=0.5, cpus=2)
GPU = Speed(decode=1 / 200, compute=1 / 1000, cpus=15)


def decided(rows: int = COCO, passes: float = 20, **changes: Any) -> Decision:
    given: dict[str, Any] = {"speed": GPU, "disk": SSD} | changes
    return decide(what="coco", rows=rows, row_bytes=SMALL_VIT, passes=passes, **given)


def test_the_sum_is_one_that_a_reader_can_do() -> None:
    found = decide(
        what="ten rows",
        rows=10,
        row_bytes=100,
        passes=4,
        speed=Speed(decode=1.0, compute=3.0, devices=2, cpus=1.0),
        disk=Disk(write=50.0, read=10.0, cached=100.0, room=2000, memory=1000),
    )
    assert found.extraction_s == 15
    assert found.recompute_s == 60
    assert found.cache_s == 15 + 1000 / 50 + 4 * 1000 / 100
    assert found.choice == "recompute"
    assert "4 passes take 75 s with a store, 60 s without" in found.sentence


def test_decoding_limits_a_fast_gpu() -> None:
    assert Speed(decode=0.01, compute=0.001, cpus=2).seconds_per_row == 0.005
    assert Speed(decode=0.01, compute=0.1, devices=4, cpus=2).seconds_per_row == 0.025


def test_coco_on_a_laptop_is_stored_where_it_fits() -> None:
    found = decided(speed=LAPTOP)
    assert found.choice == "cache"
    assert found.num_bytes == pytest.approx(71e9, rel=0.01)
    assert "71.2 GB" in found.sentence
    assert decided(speed=LAPTOP, passes=1.1).choice == "cache"


def test_coco_where_it_does_not_fit_is_computed_again_and_again() -> None:
    small = Disk(write=1e9, read=2e9, cached=6e9, room=50 * 10**9, memory=8 * 10**9)
    found = decided(speed=LAPTOP, disk=small)
    assert found.choice == "recompute"
    assert found.reason == "the store has room for 50.0 GB only"
    five = decided(rows=5 * COCO, speed=LAPTOP, disk=SSD)
    assert five.choice == "cache"
    assert decided(rows=5 * COCO, speed=LAPTOP, disk=small).choice == "recompute"


def test_five_crops_of_coco_on_a_gpu_depend_on_the_disk() -> None:
    """356 GB do not stay in memory: what the disk reads decides."""
    slow = Disk(write=0.2e9, read=0.3e9, cached=6e9, room=10**12, memory=64 * 10**9)
    many = decided(rows=5 * COCO, disk=slow)
    assert many.num_bytes == pytest.approx(356e9, rel=0.01)
    assert many.choice == "recompute"
    assert "read from disk at 0.3 GB/s" in many.sentence
    assert decided(rows=5 * COCO, disk=SSD).choice == "cache"


def test_one_pass_is_never_worth_a_store_that_is_not_there() -> None:
    assert decided(passes=1).choice == "recompute"
    assert decided(passes=1, missing=0.0).choice == "cache"


def test_what_is_there_already_costs_nothing_again() -> None:
    assert decided(missing=0.5).cache_s < decided().cache_s
    assert decided(missing=0.0).cache_s == pytest.approx(20 * COCO * SMALL_VIT / SSD.read)


def test_the_user_has_the_last_word_where_it_can_be_kept() -> None:
    forced = decided(passes=1, mode="cache")
    assert forced.choice == "cache"
    assert forced.reason.startswith("as asked; 1 passes take")
    assert decided(speed=LAPTOP, mode="recompute").choice == "recompute"
    with pytest.raises(UserError, match=r"71\.2 GB do not fit the 1\.0 kB"):
        decided(mode="cache", disk=Disk(1e9, 1e9, 1e9, 1000, 0))


def test_a_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    disk = measure_disk(tmp_path / "new", room=5)
    assert list((tmp_path / "new").iterdir()) == []
    assert disk.room == 5
    assert min(disk.write, disk.read, disk.cached) > PROBE_BYTES / 100
    assert disk.memory > 0


@pytest.mark.parametrize(
    ("number", "text"),
    [(12, "12 B"), (602_112, "602 kB"), (1e6, "1.0 MB"), (71.2e9, "71.2 GB"), (356e9, "356 GB")],
)
def test_sizes(number: float, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.2 s"), (45, "45 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
