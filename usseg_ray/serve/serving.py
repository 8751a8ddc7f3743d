"""A server from its socket to its end: the port, Ray, the workers, and the way back.

HTTP is answered in the command's own process, where token and limits are; Ray Serve has the
workers, the batches and the queue before them, and opens no port of its own.
"""

import errno
import importlib.util
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from usseg_ray.cluster.join import local_ray
from usseg_ray.core.errors import UserError
from usseg_ray.models.description import read_description
from usseg_ray.serve.access import is_loopback
from usseg_ray.serve.limits import CONNECTIONS, DEFAULT, Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

_EXTRA = ("fastapi", "python_multipart", "uvicorn")

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

_END_S = 10


@dataclass(frozen=True)
class ServeOptions:
    """What is to be served, and how.

    Attributes:
        model: The model's folder.
        host: Address to listen on.
        port: Port; 0 for any that is free.
        device: Where workers compute.
        workers: How many.
        limits: What a request may cost.
        token: What clients show; nothing if unset.
        page: Whether `/` is the page to try the model on.
    """

    model: Path
    host: str
    port: int
    device: str
    workers: int = 1
    limits: Limits = DEFAULT
    token: str | None = None
    page: bool = False


def check_extra() -> None:
    """Makes sure that what HTTP takes is installed.

    Raises:
        UserError: It is not.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"serve and demo need an extra ({', '.join(missing)} is missing): "
            "pip install 'usseg-ray[serve]'"
        )


def serve(order: ServeOptions, say: Callable[[str], object]) -> None:
    """Serves a model until Ctrl-C or SIGTERM; requests that have begun are answered first.

    Args:
        order: What, and how.
        say: Takes the address when requests are answered.

    Raises:
        UserError: The port is taken, or the model cannot be used.
    """
    # Of the extra `serve`.
    from usseg_ray.serve.app import create_app  # noqa: PLC0415
    from usseg_ray.serve.pool import ModelPool, started_pool  # noqa: PLC0415

    signal.signal(signal.SIGTERM, _interrupt)
    pool = ModelPool(str(order.model.absolute()), order.device, order.workers, order.limits.queue)
    hosts = _LOOPBACK_NAMES if is_loopback(order.host) else ("*",)
    description = read_description(order.model)
    with (
        bound(order.host, order.port) as listening,
        local_ray() as started,
        started_pool(pool, joined=not started) as model,
    ):
        app = create_app(
            model, description, order.limits, token=order.token, hosts=hosts, page=order.page
        )
        say(url_of(listening))
        with suppress(KeyboardInterrupt):  # what uvicorn makes of either signal when it has ended
            _answer(app, listening)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """Listens on an address, for a `with` block.

    Raises:
        UserError: It is taken, not this machine's, or not this user's to take.
    """
    listening = None
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        # At once: until somebody listens, Linux gives the port to another one, too.
        listening.listen(CONNECTIONS)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise _unbound(host, port, error) from None
    with listening:
        yield listening


def _unbound(host: str, port: int, error: OSError) -> UserError:
    if error.errno == errno.EADDRINUSE:
        return UserError(f"--port {port}: taken. Choose another; 0 is any that is free.")
    if error.errno == errno.EACCES:
        return UserError(f"--port {port}: not yours to take; those from 1024 on are.")
    return UserError(f"--host {host}: no address of this machine ({error.strerror}).")


def url_of(listening: socket.socket) -> str:
    """Says where a server is reached."""
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _answer(app: "FastAPI", listening: socket.socket) -> None:
    import uvicorn  # noqa: PLC0415 (of the extra `serve`)

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=_END_S,
        lifespan="off",
    )
    uvicorn.Server(config).run(sockets=[listening])
