"""A server's application without Ray: a model in this process, or one that does as it is told."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import torch
from fastapi import FastAPI

from tests.unit.models.conftest import kept
from usseg_ray.data.decode import decode_image
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.outputs.base import Strip
from usseg_ray.outputs.tiles import narrow
from usseg_ray.serve.answers import Wish, encoded

Kind = TypeVar("Kind")


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A k-means model of the tiny set."""
    return kept(tmp_path_factory.mktemp("kept"), "kmeans")


@pytest.fixture(scope="package")
def segmenter(model: Path) -> Segmenter:
    return Segmenter.open(model, torch.device("cpu"))


class InProcess:
    """A model that segments in this process.

    Args:
        segmenter: What segments.
        fails: Raised instead, if there is one.
    """

    def __init__(self, segmenter: Segmenter, fails: Exception | None = None) -> None:
        self._segmenter, self.fails, self.asked = segmenter, fails, 0

    async def answer(self, data: bytes, wish: Wish) -> bytes:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        image = decode_image(data)
        found = self._segmenter.segment(image)
        strip = Strip(narrow(found.mask, found.names.ignored), found.confidence, image)
        return encoded(strip, found.names, wish)

    async def healthy(self) -> bool:
        return self.fails is None


def asked(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    """Sends a request to an application."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return run(send())


def run(work: Coroutine[Any, Any, Kind]) -> Kind:
    return asyncio.run(work)
