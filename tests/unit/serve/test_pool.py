"""Answers of a pool's workers, and what its failures are to a client; whole ones need Ray."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from usseg_ray.data.containers import UndecodableError
from usseg_ray.serve.answers import Wish
from usseg_ray.serve.app import BusyError, GoneError
from usseg_ray.serve.pool import ServedModel
from usseg_ray.serve.worker import Reply


def served(reply: Reply | Exception) -> ServedModel:
    async def remote(data: bytes, wish: Wish) -> Reply:
        assert (data, wish) == (b"file", Wish())
        if isinstance(reply, Exception):
            raise reply
        return reply

    handle: Any = SimpleNamespace(answer=SimpleNamespace(remote=remote))
    return ServedModel(handle, "name")


def test_an_answer_is_the_workers() -> None:
    assert asyncio.run(served(Reply(b"mask")).answer(b"file", Wish())) == b"mask"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(reason="truncated"), UndecodableError),
        (BackPressureError(num_queued_requests=2, max_queued_requests=2), BusyError),
        (RayActorError(), GoneError),
    ],
)
def test_a_failure_has_its_name(reply: Reply | Exception, error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(served(reply).answer(b"file", Wish()))
