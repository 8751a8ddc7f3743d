"""`demo`: the page is this machine's alone, and what cannot be shown is a line."""

import socket
import webbrowser
from pathlib import Path

import pytest

from tests.integration.commands import here
from tests.unit.models.conftest import kept
from usseg_ray.serve import serving
from usseg_ray.serve.serving import ServeOptions


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept(tmp_path_factory.mktemp("kept"), "kmeans")


def test_what_cannot_be_shown_is_a_line(model: Path, tmp_path: Path) -> None:
    missing = here("demo", "--model", tmp_path / "gone")
    assert (missing.returncode, "no such folder" in missing.stderr) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = here("demo", "--model", model, "--port", str(taken.getsockname()[1]))
    assert (found.returncode, "taken" in found.stderr) == (2, True)


@pytest.mark.parametrize("opens", [True, False])
def test_the_page_is_opened_if_asked(
    model: Path, monkeypatch: pytest.MonkeyPatch, opens: bool
) -> None:
    opened: list[str] = []
    orders: list[ServeOptions] = []

    def served(order: ServeOptions, say: object) -> None:
        orders.append(order)
        assert callable(say)
        say("http://127.0.0.1:8000")

    monkeypatch.setattr(serving, "serve", served)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    shown = here("demo", "--model", model, *(["--open"] if opens else []))
    assert shown.returncode == 0
    assert "http://127.0.0.1:8000" in shown.stdout
    assert opened == (["http://127.0.0.1:8000"] if opens else [])
    assert (orders[0].page, orders[0].host, orders[0].token) == (True, "127.0.0.1", None)
