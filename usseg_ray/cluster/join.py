"""The Ray cluster under a command: joined if there is one, else started here and quietly.

A cluster started here listens on loopback only, with Ray's token authentication. One that is there
is asked first: does it answer, does it know the token, is it the same Ray?
Ray itself waits: for minutes where nobody listens, and twenty seconds where the token is wrong,
before it says that it failed to connect. This asks within seconds, and names the cause;
`doctor.access` asks the same of a cluster from outside.
"""

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import ray
from ray.exceptions import AuthenticationError

from usseg_ray.cluster.watch import abandon, is_gone, watched
from usseg_ray.core.cli import errors
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line

PATIENCE_S = 3.0

CONTROL, CLIENT = "/ray.rpc.NodeInfoGcsService/CheckAlive", "/ray.rpc.RayletDriver/ClusterInfo"

Reply = Literal["open", "refused", "silent", "unknown"]

_GET = "Copy that of whoever started the cluster to ~/.ray/auth_token, and chmod 600 it."


def own_token() -> str | None:
    """Reads the user's token where Ray does: two variables, then `~/.ray/auth_token`."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    default = Path.home() / ".ray" / "auth_token"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or default).expanduser()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text("utf-8").strip() or None
    return None


def listens(host: str, port: int) -> bool:
    """Tells whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except OSError:
        return False
    return True


def ask(host: str, port: int, method: str, token: str | None) -> Reply:
    """Makes an empty call to one of Ray's servers.

    Args:
        host: Address of the head.
        port: Of the server.
        method: `CONTROL` or `CLIENT`.
        token: Shown with the call, if any.

    Returns:
        `refused` where the token is missing or wrong, `open` where the call went through, `silent`
        where no answer came, and `unknown` where gRPC is not installed (it comes with
        `ray[default]`).
    """
    try:
        import grpc  # noqa: PLC0415 (of the extra `cluster`)
    except ImportError:
        return "unknown"
    shown = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=PATIENCE_S, metadata=shown)
        except grpc.RpcError as refused:
            if refused.code() == grpc.StatusCode.UNAUTHENTICATED:
                return "refused"
            if refused.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return "silent"
    return "open"


def check_cluster(address: str) -> None:
    """Asks a cluster whether it can be joined.

    Args:
        address: `host:port` of its control service; others are left to Ray.

    Raises:
        UserError: It cannot; the line names the cause.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return
    where = f"RAY_ADDRESS={address}"
    if not listens(host, int(port)):
        raise UserError(
            f"{where}: nobody listens there. Start the cluster (ray up), correct the address (the "
            "head's, port 6379), or unset RAY_ADDRESS to use this machine alone."
        )
    mode, token = os.environ.get("RAY_AUTH_MODE"), own_token()
    if mode == "token" and token is None:
        raise UserError(f"RAY_AUTH_MODE=token, and there is no token. {_GET}")
    answer = ask(host, int(port), CONTROL, token if mode == "token" else None)
    if answer == "silent":
        raise UserError(f"{where}: what listens there is not Ray's control service (port 6379).")
    if answer == "refused" and mode == "token":
        raise UserError(f"{where}: the cluster does not know this token. {_GET}")
    if answer == "refused":
        hint = f" {_GET}" if token is None else ""
        raise UserError(f"{where}: the cluster asks for a token. export RAY_AUTH_MODE=token{hint}")


OBJECT_STORE_BYTES = 768 * 2**20

_MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107

_SOCKET_BYTES = len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")


@contextmanager
def local_ray(preload: str = "") -> Iterator[bool]:
    """Joins the cluster of `RAY_ADDRESS`, or starts one on this machine, for a `with` block.

    On the head of a cluster that `ray up` started, `RAY_ADDRESS` is that cluster's unless it says
    otherwise (`local` starts one beside it): what `ray submit` runs there belongs to it.

    Args:
        preload: A module that processes of a Ray that is started here import while they wait for
            work; Ray has one ready for each core.

    Yields:
        Whether it was started here, and so is stopped after the block.

    Raises:
        UserError: `RAY_ADDRESS` names a cluster that cannot be joined, or the Ray that this process
            started was killed under it.
    """
    if ray.is_initialized():
        if is_gone():
            raise UserError("The Ray of this process was killed: start Python anew.")
        yield False
        return
    ended_by, others = signal.getsignal(signal.SIGTERM), _children()
    started = _connect(preload)
    rays = _children() - others
    if threading.current_thread() is threading.main_thread():
        # Ray puts a handler of its own there, which ends the process before anything is closed.
        signal.signal(signal.SIGTERM, ended_by)
    try:
        with watched(rays, _say):
            yield started
    finally:
        if is_gone():
            abandon(rays)
        else:
            ray.shutdown()


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _say(line: str) -> None:
    errors.print(line, markup=False, highlight=False)


def _connect(preload: str) -> bool:
    """Joins a cluster, or starts one and says so."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "local")
    if address not in ("", "local"):
        check_cluster(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, AuthenticationError) as error:
            cause = " ".join(f"{error} {error.__cause__ or ''}".split())
            raise UserError(
                f"RAY_ADDRESS={address}: the Ray cluster there cannot be joined ({cause[:300]}). "
                "python -m usseg_ray.doctor may know why; unset it to use this machine alone."
            ) from None
        return False
    check_socket_folder()
    if preload:
        quiet["_system_config"] = {"preload_python_modules": [preload]}
    try:
        _start(**quiet)
    except Exception:  # noqa: BLE001 (Ray raises plain ones, such as on a machine that is busy)
        ray.shutdown()
        try:
            _start(**quiet)
        except Exception as error:
            ray.shutdown()
            raise UserError(
                f"Ray could not be started here, twice ({first_line(error)[:200]}). The machine "
                "may be busy, or out of memory or disk: run it again later, a run that has begun "
                "with --resume."
            ) from error
    _protect_token()
    return True


def _start(**quiet: Any) -> None:  # noqa: ANN401 (options of `ray.init`)
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=_object_store_bytes(),
        _node_ip_address="127.0.0.1",
        **quiet,
    )


def check_socket_folder(environment: Mapping[str, str] = os.environ) -> None:
    """Makes sure that the names of Ray's sockets fit, which lie in its folder for temporary files.

    Raises:
        UserError: They do not; the line names the variable.
    """
    variable = "RAY_TMPDIR" if environment.get("RAY_TMPDIR") else "TMPDIR"
    folder = environment.get(variable) or "/tmp"
    length = len(os.fsencode(f"{folder}/ray")) + _SOCKET_BYTES
    if length > _MAX_SOCKET_BYTES:
        raise UserError(
            f"{variable}={folder} is too long for Ray's sockets ({length} of at most "
            f"{_MAX_SOCKET_BYTES} bytes): export RAY_TMPDIR=/tmp"
        )


def _object_store_bytes() -> int:
    shm = Path("/dev/shm")
    free = shutil.disk_usage(shm).free if shm.exists() else OBJECT_STORE_BYTES
    return min(OBJECT_STORE_BYTES, max(100 * 2**20, int(free * 0.8)))


def _protect_token() -> None:
    """Ray writes a new token with the umask's mode; a token is its owner's alone."""
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() and token.stat().st_mode & 0o077:
        token.chmod(0o600)
