"""What a request may cost: bytes, pixels, seconds, and a place in the queue."""

from dataclasses import dataclass

BATCH = 8
"""Images that are segmented together, at most."""

ONGOING = 12
"""Requests that a worker has begun: a batch, and a few that are decoded meanwhile."""

ARRIVING = 128
"""Requests that are not answered yet, with those whose bodies are still on their way."""

CONNECTIONS = 1024
"""Clients that are connected at a time."""

BODY_S = 60.0
"""Time in which a request's body has to arrive."""

RETRY_AFTER_S = 2
"""What a client is told to wait that finds the queue full."""


@dataclass(frozen=True)
class Limits:
    """What whoever starts a server may choose.

    Attributes:
        upload: Bytes of a request's body.
        pixels: Width x height of an image.
        queue: Requests that wait for a worker.
    """

    upload: int = 32 * 2**20
    pixels: int = 24 * 2**20
    queue: int = 32


DEFAULT = Limits()
