"""Tokens: where they are read, what is one, and how they are compared."""

from pathlib import Path

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.serve.access import VARIABLE, admits, check_host, is_loopback, read_token

TOKEN = "5f2b8c1d9e7a4f60"


def test_a_token_is_read_from_its_file_or_its_variable(tmp_path: Path) -> None:
    assert read_token(None, {}) is None
    environment = {VARIABLE: f" {TOKEN}\n"}
    assert read_token(None, environment) == TOKEN
    # Nothing that is started later inherits it.
    assert environment == {}
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}x\n")
    environment = {VARIABLE: TOKEN}
    assert read_token(file, environment) == f"{TOKEN}x"
    assert environment == {}


@pytest.mark.parametrize("text", ["", "short", f"{TOKEN} two", "ü" * 20, f"{TOKEN}\x1b[0m"])
def test_what_is_no_token_is_refused_and_not_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text, "utf-8")
    with pytest.raises(UserError, match="expected one token of at least 16") as refused:
        read_token(file, {})
    assert not text or text not in str(refused.value)
    with pytest.raises(UserError, match=VARIABLE):
        read_token(None, {VARIABLE: text})


def test_a_file_that_is_missing_or_no_text_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_token(tmp_path / "gone", {})
    (tmp_path / "large").write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match="larger than"):
        read_token(tmp_path / "large", {})


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.4", False),
        ("localhost.example.org", False),
    ],
)
def test_others_reach_a_server_with_a_token_alone(host: str, inside: bool) -> None:
    assert is_loopback(host) == inside
    check_host(host, TOKEN)
    if inside:
        check_host(host, None)
        return
    with pytest.raises(UserError, match="there is no token"):
        check_host(host, None)


def test_the_token_opens_and_nothing_else_does() -> None:
    assert admits(TOKEN, f"Bearer {TOKEN}")
    assert admits(TOKEN, f"bearer  {TOKEN} ")
    for header in ("", TOKEN, "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer ü"):
        assert not admits(TOKEN, header)
