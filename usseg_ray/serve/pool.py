"""Workers of Ray Serve: started under a name of their own, asked, and ended.

Serve has the batches and the queue before them. It opens no port for HTTP, and applications of
others on the same cluster are left alone.
"""

import asyncio
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ray import serve
from ray.exceptions import ActorAlreadyExistsError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from usseg_ray.core.errors import UserError
from usseg_ray.data.containers import UndecodableError
from usseg_ray.serve.answers import Wish
from usseg_ray.serve.app import BusyError, GoneError
from usseg_ray.serve.limits import ONGOING
from usseg_ray.serve.worker import ModelWorker

_END_S = 5.0

_END_LOOK_S = 0.1


@dataclass(frozen=True)
class ModelPool:
    """Which workers there are to be.

    Attributes:
        model: The model's folder.
        device: Where they compute.
        workers: How many.
        queue: Requests that wait for them.
    """

    model: str
    device: str
    workers: int
    queue: int


@contextmanager
def started_pool(pool: ModelPool, *, joined: bool) -> Iterator["ServedModel"]:
    """Starts workers on Ray, for a `with` block.

    Args:
        pool: Which.
        joined: Whether Ray goes on after the block.

    Raises:
        UserError: The model cannot be used.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    name = f"usseg-{uuid.uuid4().hex[:8]}"
    _join()
    deployment = serve.deployment(
        ModelWorker,
        num_replicas=pool.workers,
        max_ongoing_requests=ONGOING,
        max_queued_requests=pool.queue,
        graceful_shutdown_timeout_s=_END_S,
        graceful_shutdown_wait_loop_s=_END_LOOK_S,
        ray_actor_options={"num_cpus": 1, "num_gpus": 1 if pool.device == "cuda" else 0},
    )
    try:
        application = deployment.bind(pool.model, pool.device, pool.workers)
        handle = serve.run(application, name=name, route_prefix=None)
        if refusal := handle.ready.remote().result():
            raise UserError(refusal)
        yield ServedModel(handle, name)
    finally:
        if joined:  # else they end with their Ray, which may be gone already
            serve.delete(name)


def _join() -> None:
    """Starts Ray Serve, or joins that of the cluster."""
    try:
        serve.start(proxy_location="Disabled")
    except ActorAlreadyExistsError:  # another command started it since this one looked
        serve.start(proxy_location="Disabled")


class ServedModel:
    """Workers as `app.Responder`.

    Args:
        handle: Of their deployment.
        name: Of their application.
    """

    def __init__(self, handle: DeploymentHandle, name: str) -> None:
        self._handle, self._name = handle, name

    async def answer(self, data: bytes, wish: Wish) -> bytes:
        """Has a worker segment an image."""
        try:
            found = await self._handle.answer.remote(data, wish)
        except BackPressureError:
            raise BusyError from None
        except (RayActorError, DeploymentUnavailableError):
            raise GoneError from None
        if found.reason:
            raise UndecodableError(found.reason)
        return bytes(found.content)

    async def healthy(self) -> bool:
        """Says whether all workers run."""
        status = await asyncio.to_thread(serve.status)
        application = status.applications.get(self._name)
        return application is not None and application.status == "RUNNING"
