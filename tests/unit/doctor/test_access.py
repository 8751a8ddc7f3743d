"""Tokens that others may read, ports that are open, clusters that let strangers in."""

import json
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.asked import answering
from usseg_ray.doctor import access

SECRET = "f" * 32


@pytest.fixture
def home(tmp_path: Path) -> Path:
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(SECRET)
    token.chmod(0o600)
    return tmp_path


def errors(found: list[access.Finding]) -> list[str]:
    assert all(one.fix for one in found if one.level != "ok")
    return [one.where for one in found if one.level == "error"]


def test_a_private_token_and_its_mode_are_fine(home: Path) -> None:
    assert errors(access.check_token({"RAY_AUTH_MODE": "token"}, home, cluster=True)) == []


def test_a_token_that_others_may_read_is_an_error(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    token.chmod(0o644)
    found = access.check_token({}, home, cluster=False)
    assert errors(found) == [str(token)]
    assert found[0].fix == f"chmod 600 {token}"


def test_an_empty_token_is_an_error(home: Path) -> None:
    (home / ".ray" / "auth_token").write_text("\n")
    assert errors(access.check_token({}, home, cluster=False))


def test_a_token_that_is_no_text_is_an_error(home: Path) -> None:
    (home / ".ray" / "auth_token").write_bytes("token".encode("utf-16"))
    (found,) = access.check_token({}, home, cluster=False)
    assert (found.level, "not UTF-8 text" in found.what) == ("error", True)


def test_without_a_cluster_no_token_is_needed(tmp_path: Path) -> None:
    assert access.check_token({}, tmp_path, cluster=False) == []


def test_a_cluster_needs_mode_and_token(tmp_path: Path) -> None:
    found = access.check_token({}, tmp_path, cluster=True)
    assert errors(found) == ["RAY_AUTH_MODE", str(tmp_path / ".ray" / "auth_token")]


def test_tokens_that_are_switched_off_are_an_error(home: Path) -> None:
    assert errors(access.check_token({"RAY_AUTH_MODE": "disabled"}, home, cluster=False))


def test_a_token_in_the_environment_is_enough(tmp_path: Path) -> None:
    given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRET}
    assert errors(access.check_token(given, tmp_path, cluster=True)) == []


@contextmanager
def listener(address: str) -> Iterator[int]:
    with socket.create_server((address, 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_open_to_all_is_found() -> None:
    with listener("0.0.0.0") as port:
        found = access.check_bindings(access.listening(), {port: "MLflow"}, token_mode=True)
    assert errors(found) == [f"0.0.0.0:{port}"]


def test_a_port_on_loopback_is_fine() -> None:
    with listener("127.0.0.1") as port:
        found = access.check_bindings(access.listening(), {port: "MLflow"}, token_mode=True)
    assert errors(found) == []


def test_ports_that_only_root_may_see_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_kind: str) -> object:
        raise psutil.AccessDenied(1)  # as on macOS

    monkeypatch.setattr(psutil, "net_connections", denied)
    (found,) = access.check_ports(token_mode=True)
    assert (found.level, found.where) == ("warning", "ports")
    assert "without root" in found.what


def test_the_control_service_may_be_reached_with_a_token_only() -> None:
    there = [("10.0.0.1", 6379), ("::ffff:127.0.0.1", 10001)]
    assert errors(access.check_bindings(there, token_mode=True)) == []
    assert errors(access.check_bindings(there, token_mode=False)) == ["10.0.0.1:6379"]


def jobs_api(*, secret: str | None, version: str = "2.60.0") -> AbstractContextManager[str]:
    """Runs a jobs API of that Ray, which asks for the secret if there is one."""
    body = json.dumps({"ray_version": version}).encode()
    return answering(authorization=f"Bearer {secret}" if secret else None, body=body)


def test_an_open_jobs_api_is_an_error() -> None:
    with jobs_api(secret=None) as url:
        assert errors(access.check_jobs_api(url, SECRET, "2.60.0")) == [url]


def test_a_cluster_of_the_same_ray_that_knows_the_token_is_fine() -> None:
    with jobs_api(secret=SECRET) as url:
        assert errors(access.check_jobs_api(url, SECRET, "2.60.0")) == []


@pytest.mark.parametrize(
    ("token", "version", "says"),
    [("wrong", "2.60.0", "refuses"), (None, "2.60.0", "refuses"), (SECRET, "2.59.0", "2.59.0")],
)
def test_a_wrong_token_and_another_ray_are_errors(
    token: str | None, version: str, says: str
) -> None:
    with jobs_api(secret=SECRET, version=version) as url:
        (found,) = access.check_jobs_api(url, token, "2.60.0")
    assert found.level == "error"
    assert says in found.what


def test_a_dashboard_that_does_not_answer_is_an_error() -> None:
    with listener("127.0.0.1") as port:
        pass
    assert errors(access.check_jobs_api(f"http://127.0.0.1:{port}", SECRET, "2.60.0"))
