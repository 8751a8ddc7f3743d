"""What a request passes before its body is read: the token, and the limits on the body."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from usseg_ray.serve.access import admits
from usseg_ray.serve.limits import ARRIVING, BODY_S, RETRY_AFTER_S

HEALTH = "/health"
"""Open to everybody: who watches a server has no token."""


def refusal(status: int, reason: str, **headers: str) -> JSONResponse:
    """Makes the answer to a request that is refused.

    Args:
        status: HTTP's.
        reason: One line.
        **headers: Of the answer; `_` stands for `-`.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"error": reason}, status, named)


def busy(reason: str, **headers: str) -> JSONResponse:
    """Makes the answer to a request that has to come again."""
    told = f"{reason}; try again in {RETRY_AFTER_S} s."
    return refusal(503, told, Retry_After=str(RETRY_AFTER_S), **headers)


class Gate:
    """An ASGI application before another one.

    Args:
        app: The other one.
        token: What clients show; nothing if unset.
        upload: Bytes of a body, at most.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, upload: int) -> None:
        self._app, self._token, self._upload = app, token, upload
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a request or lets it pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope["path"], Headers(scope=scope))
        if refused is not None:
            await refused(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._app(scope, _BoundedBody(receive, self._upload), send)
        finally:
            self._inside -= 1

    def _refused(self, path: str, headers: Headers) -> JSONResponse | None:
        open_to_all = self._token is None or path == HEALTH
        if not open_to_all and not admits(self._token or "", headers.get("authorization", "")):
            reason = "The token is missing or wrong (Authorization: Bearer TOKEN)."
            return refusal(401, reason, WWW_Authenticate="Bearer", Connection="close")
        stated = headers.get("content-length", "0")
        if stated.isdecimal() and int(stated) > self._upload:
            return refusal(413, too_large(self._upload), Connection="close")
        if self._inside >= ARRIVING and path != HEALTH:
            return busy(f"{ARRIVING} requests are on their way", Connection="close")
        return None


class _BoundedBody:
    """Receives a body up to a number of bytes, and in time."""

    def __init__(self, receive: Receive, upload: int) -> None:
        self._receive, self._upload, self._left = receive, upload, upload
        self._ends, self._whole = time.monotonic() + BODY_S, False

    async def __call__(self) -> Message:
        if self._whole:  # what comes after it is that the client has gone
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._ends - time.monotonic())
        except TimeoutError:
            raise HTTPException(408, f"The body did not arrive within {BODY_S:.0f} s.") from None
        self._left -= len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._left < 0:
            raise HTTPException(413, too_large(self._upload))
        return message


def too_large(upload: int) -> str:
    """Says that a body is larger than it may be."""
    return f"The request is larger than {upload / 2**20:g} MiB (--max-upload)."
