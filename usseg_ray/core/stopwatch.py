"""Wall seconds of the parts of something long, added up by name.

Beside the path: a run says how much of an epoch went into its batches, and a sweep where its time
went, in the same way.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

Seconds = dict[str, float]
"""What took how long."""


@contextmanager
def timed(seconds: Seconds, what: str) -> Iterator[None]:
    """Adds the time that a block takes, also where it raises.

    Args:
        seconds: What to add it to.
        what: Its name there.
    """
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[what] = seconds.get(what, 0.0) + time.perf_counter() - started


def timed_items(seconds: Seconds, what: str, items: Iterable[Item]) -> Iterator[Item]:
    """Adds the time that waiting for items takes, and not what is done with them.

    Args:
        seconds: What to add it to.
        what: Its name there.
        items: What to walk.
    """
    source = iter(items)
    while True:
        with timed(seconds, what):
            item = next(source, None)
        if item is None:
            return
        yield item
