"""The gate: tokens, bodies that are too large, too slow or too many, and what passes."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from tests.unit.serve.conftest import run
from usseg_ray.serve import gate
from usseg_ray.serve.gate import Gate, refusal

TOKEN = "5f2b8c1d9e7a4f60"
SHOWN = {"Authorization": f"Bearer {TOKEN}"}


def gated(token: str | None = TOKEN, upload: int = 100) -> ASGIApp:
    async def length(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    async def slow(_: Request) -> PlainTextResponse:
        await asyncio.sleep(0.2)
        return PlainTextResponse("slow")

    methods = ["GET", "POST"]
    routes = [Route(path, length, methods=methods) for path in ("/predict", "/health")]
    app = Starlette(routes=[*routes, Route("/slow", slow)])
    return Gate(app, token=token, upload=upload)


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


def post(app: ASGIApp, path: str, **options: object) -> httpx.Response:
    async def send() -> httpx.Response:
        async with client(app) as asking:
            return await asking.post(path, **options)  # type: ignore[arg-type]

    found = run(send())
    assert isinstance(found, httpx.Response)
    return found


async def chunks(count: int, size: int, pause: float = 0) -> AsyncIterator[bytes]:
    for _ in range(count):
        await asyncio.sleep(pause)
        yield b"x" * size


def test_a_token_is_asked_for_before_the_body_is_read() -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        found = post(gated(), "/predict", headers=headers, content=chunks(1000, 1000))
        assert found.status_code == 401
        assert found.headers["www-authenticate"] == "Bearer"
        assert "token" in found.json()["error"]
        assert TOKEN not in found.text
    assert post(gated(), "/predict", headers=SHOWN, content=b"abc").text == "3"
    assert post(gated(), "/health").text == "0"
    assert post(gated(token=None), "/predict", content=b"abc").text == "3"


def test_a_body_that_is_too_large_is_refused_by_its_length_or_as_it_comes() -> None:
    stated = post(gated(), "/predict", headers=SHOWN, content=b"x" * 101)
    assert stated.status_code == 413
    assert "larger than" in stated.json()["error"]
    assert post(gated(), "/predict", headers=SHOWN, content=b"x" * 100).text == "100"
    counted = post(gated(), "/predict", headers=SHOWN, content=chunks(11, 10))
    assert counted.status_code == 413
    assert post(gated(), "/predict", headers=SHOWN, content=chunks(10, 10)).text == "100"


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_S", 0.05)
    found = post(gated(), "/predict", headers=SHOWN, content=chunks(10, 1, pause=0.03))
    assert found.status_code == 408
    assert "did not arrive" in found.text


def test_no_more_requests_come_in_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "ARRIVING", 2)
    app = gated()

    async def send() -> list[httpx.Response]:
        async with client(app) as asking:
            paths = ["/slow", "/slow", "/slow", "/health"]
            return list(await asyncio.gather(*(asking.get(p, headers=SHOWN) for p in paths)))

    found = run(send())
    assert [one.status_code for one in found] == [200, 200, 503, 200]
    assert int(found[2].headers["retry-after"]) > 0
    # Those that were answered make room.
    assert post(app, "/predict", headers=SHOWN, content=b"abc").text == "3"


def test_a_refusal_is_one_line() -> None:
    found = refusal(418, "A teapot.", Retry_After="3")
    assert (found.status_code, found.body) == (418, b'{"error":"A teapot."}')
    assert found.headers["retry-after"] == "3"
