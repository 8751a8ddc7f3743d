"""From the process's memory to a device, without waiting for what the device does meanwhile.

A copy from ordinary memory to a GPU waits until everything before it is done. From pinned memory it
is one more thing in the queue, and in a stream of its own it goes on beside what is computed. On a
CPU nothing is copied, and nothing changes.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Brings a small tensor to a device; on the way to a GPU it passes through pinned memory."""
    if device.type != "cuda" or values.is_cuda or not values.numel():
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def sending(values: Tensor, device: torch.device) -> Callable[[], Tensor]:
    """Begins to copy a tensor to a device, beside what this computes.

    Args:
        values: In pinned memory where the device is a GPU; not to be written again.
        device: Where to.

    Returns:
        Gives the copy: what is computed with it waits for it, the process does not.
    """
    if device.type != "cuda":
        return lambda: values.to(device)
    stream = _copy_stream(device)
    with torch.cuda.stream(stream):
        there = values.to(device, non_blocking=True)
        arrived = stream.record_event()

    def take() -> Tensor:
        computing = torch.cuda.current_stream(device)
        computing.wait_event(arrived)
        # Its memory is not given away before this stream is done with it.
        there.record_stream(computing)
        return there

    return take


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Has the next item made before the last one is given: what it began goes on meanwhile.

    Raises:
        Exception: What making an item raises, before the item in front of it is given.
    """
    source = iter(items)
    held = list(islice(source, 1))
    for following in source:
        yield held.pop()
        held.append(following)
    yield from held
