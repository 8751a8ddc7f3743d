"""Before a cluster is joined: does it answer, does it know the token, is it the same Ray?

Ray itself waits: for minutes where nobody listens, and twenty seconds where the token is wrong,
before it says that it failed to connect. This asks first, within seconds, and names the cause. It
stands beside `cluster`, which joins; `checks.access` asks the same of a cluster from outside.
"""

import contextlib
import os
import socket
from pathlib import Path
from typing import Literal

from usseg_ray.config import UserError

PATIENCE_S = 3.0
CONTROL, CLIENT = "/ray.rpc.NodeInfoGcsService/CheckAlive", "/ray.rpc.RayletDriver/ClusterInfo"
Answer = Literal["open", "refused", "silent", "unknown"]
_GET = "Copy that of whoever started the cluster to ~/.ray/auth_token, and chmod 600 it."


def own_token() -> str | None:
    """Reads the user's token where Ray does: two variables, then `~/.ray/auth_token`."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    default = Path.home() / ".ray" / "auth_token"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or default).expanduser()
    with contextlib.suppress(OSError):
        return path.read_text("utf-8").strip() or None
    return None


def listens(host: str, port: int) -> bool:
    """Tells whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except OSError:
        return False
    return True


def ask(host: str, port: int, method: str, token: str | None) -> Answer:
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
