"""A worker of Ray Serve: decodes images, segments them in batches, and writes what is wanted."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from jaxtyping import UInt8
from ray import serve
from ray.serve._private import replica

from usseg_ray.core.errors import UserError
from usseg_ray.core.machine import usable_cpus
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.numbers import decode_seen
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.outputs.base import Strip
from usseg_ray.outputs.tiles import narrow
from usseg_ray.serve.answers import Wish, encoded
from usseg_ray.serve.limits import BATCH

_BATCH_WAIT_S = 0.005

_OPENS_PORT = "add_port_to_grpc_server"

_THREADS = 2
"""That decode and encode: each holds an image of the largest size."""


def _keep_to_this_machine() -> None:
    """Has Ray Serve open its port on loopback.

    Every one of its workers has a gRPC server for calls past Ray's own, which asks for no token and
    unpickles what comes; it listens on all interfaces, and no setting changes that (Ray 2.60).
    Calls here go through Ray.

    Raises:
        UserError: This Ray opens it in another way.
    """
    opened = getattr(replica, _OPENS_PORT, None)
    if opened is None:
        raise UserError(
            f"Ray {ray.__version__} opens a port of its Serve in a way that this version does not "
            "know how to keep to this machine; install ray 2.60."
        )
    setattr(replica, _OPENS_PORT, lambda server, _: opened(server, "127.0.0.1:0"))


@dataclass(frozen=True)
class Reply:
    """What came of an image.

    Attributes:
        content: What was wanted of it.
        reason: Why there is nothing, if so.
    """

    content: bytes = b""
    reason: str = ""


class ModelWorker:
    """A model that answers requests, in batches.

    What is wrong with it is answered by `ready`: Ray Serve would try again for minutes, and make
    text of it.

    Args:
        model: Its folder.
        device: Where to compute.
        workers: How many share this machine's CPUs.
    """

    def __init__(self, model: str, device: str, workers: int) -> None:
        self._threads = ThreadPoolExecutor(_THREADS)
        self._refusal, self._segmenter = "", None
        torch.set_num_threads(max(1, usable_cpus() // workers))
        try:
            _keep_to_this_machine()
            self._segmenter = Segmenter.open(Path(model), torch.device(device))
        except UserError as error:
            self._refusal = str(error)

    async def ready(self) -> str:
        """Says why the model cannot be used; nothing if it can."""
        return self._refusal

    async def answer(self, data: bytes, wish: Wish) -> Reply:
        """Segments an image.

        Args:
            data: The file.
            wish: What is wanted of it.
        """
        assert self._segmenter is not None
        sight = self._segmenter.description.preprocessing.sight
        loop = asyncio.get_running_loop()
        try:
            image = await loop.run_in_executor(self._threads, decode_seen, data, sight)
        except UndecodableError as error:
            return Reply(reason=str(error))
        return Reply(await self._segment((image, wish)))

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=_BATCH_WAIT_S)  # type: ignore[untyped-decorator]
    async def _segment(self, asked: Any) -> Any:  # noqa: ANN401 (one goes in, a list comes here)
        return await asyncio.to_thread(self.segmented, asked)

    def segmented(self, asked: Sequence[tuple[UInt8[np.ndarray, "H W 3"], Wish]]) -> list[bytes]:
        """Segments a batch; an image is written while the next one is made.

        Args:
            asked: Images, and what is wanted of each.

        Returns:
            What was wanted.
        """
        assert self._segmenter is not None
        names, writing = self._segmenter.names, []
        images = [image for image, _ in asked]
        for found, (image, wish) in zip(self._segmenter.segment_each(images), asked, strict=True):
            strip = Strip(narrow(found.mask, names.ignored), found.confidence, image)
            writing.append(self._threads.submit(encoded, strip, names, wish))
        return [one.result() for one in writing]
