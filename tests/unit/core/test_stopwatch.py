import time
from collections.abc import Iterator

import pytest

from usseg_ray.core.stopwatch import Seconds, timed, timed_items

PAUSE = 0.05
FAILED: Seconds = {}


def slow() -> Iterator[int]:
    for item in range(3):
        time.sleep(PAUSE)
        yield item


def test_times_of_a_name_add_up() -> None:
    seconds: Seconds = {}
    for _ in range(2):
        with timed(seconds, "sleeping"):
            time.sleep(PAUSE)
    with timed(seconds, "nothing"):
        pass
    assert seconds["sleeping"] >= 2 * PAUSE
    assert seconds["nothing"] < PAUSE


@timed(FAILED, "failing")
def fail() -> None:
    time.sleep(PAUSE)
    raise KeyError


def test_what_raises_is_timed_too() -> None:
    with pytest.raises(KeyError):
        fail()
    assert FAILED["failing"] >= PAUSE


def test_of_items_only_the_waiting_counts() -> None:
    seconds: Seconds = {}
    walked = []
    for item in timed_items(seconds, "waiting", slow()):
        time.sleep(2 * PAUSE)
        walked.append(item)
    assert walked == [0, 1, 2]
    assert 3 * PAUSE <= seconds["waiting"] < 6 * PAUSE
