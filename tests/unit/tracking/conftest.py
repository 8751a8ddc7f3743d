"""A working directory with or without a store in it, and a real tracking server."""

from tests.ledgers import folder, server, store

__all__ = ["folder", "server", "store"]
