"""What became of shards: counted in any order, refused when too much is bad, and timed."""

from itertools import accumulate

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.data.manifest import ShardInfo
from usseg_ray.prepare.inspection import Problem
from usseg_ray.prepare.tally import ShardOutcome, Tally


def outcome(number: int, images: int = 10, bad: int = 0, turned: int = 0) -> ShardOutcome:
    shard = ShardInfo(
        path=f"shards/{number}.parquet",
        split="train",
        rows=images or 1,
        labelled=0,
        num_bytes=1,
        sha256="0" * 64,
        row_groups=(images,),
    )
    problems = [
        Problem("train", str(one), "image", f"{number}-{one}.jpg", "torn") for one in range(bad)
    ]
    return ShardOutcome(number, images, shard, problems, {number}, turned, "")


def test_what_ends_is_counted_and_told() -> None:
    told: list[tuple[int, int, int]] = []
    counted = Tally(30, 0.05, lambda *state: told.append(state))
    for one in (outcome(2), outcome(0, bad=1, turned=2), outcome(1)):
        counted.add(one)
    assert told == [(10, 0, 30), (20, 1, 30), (30, 1, 30)]
    assert (sorted(counted.shards), counted.values) == ([0, 1, 2], {0, 1, 2})
    assert counted.notes()[0].startswith("2 labelled images are turned")
    assert Tally(1, 0.05, None).notes() == []


def test_more_than_the_share_that_is_passed_over_is_refused_by_name() -> None:
    counted = Tally(40, 0.05, None)
    counted.add(outcome(0, 40, bad=2))
    counted.check("out")
    counted.add(outcome(1, 0, bad=1))
    with pytest.raises(UserError, match=r"3 of 40 .* 0\.05 allows.*\n.*0-0\.jpg: torn"):
        counted.check("out")


def test_the_rate_is_that_of_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first and the last shards, while the cluster starts and drains, take ten times as long.
    took = [10.0] * 4 + [1.0] * 14 + [10.0] * 2
    moments = list(accumulate(took))
    monkeypatch.setattr("usseg_ray.prepare.tally.time.perf_counter", iter(moments).__next__)
    counted = Tally(200, 0.05, None)
    for number in range(20):
        counted.add(outcome(number))
    assert counted.rate() == pytest.approx(10.0)
    assert Tally(200, 0.05, None).rate() is None
