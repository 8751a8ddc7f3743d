"""A server's socket, and what is said before Ray is started."""

import importlib.util
import socket
from importlib.machinery import ModuleSpec

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.serve.serving import bound, check_extra, url_of


def test_a_port_is_taken_once() -> None:
    with bound("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert url_of(listening) == f"http://127.0.0.1:{port}"
        with pytest.raises(UserError, match=f"--port {port}: taken"), bound("127.0.0.1", port):
            pass
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with bound("127.0.0.1", port):
        pass


def test_an_address_of_the_next_protocol_is_written_in_brackets() -> None:
    try:
        with bound("::1", 0) as listening:
            assert url_of(listening) == f"http://[::1]:{listening.getsockname()[1]}"
    except UserError:
        pytest.skip("no IPv6 here")


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_a_line(host: str) -> None:
    with (
        pytest.raises(UserError, match=f"--host {host}: no address of this machine"),
        bound(host, 0),
    ):
        pass


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_extra()
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "python_multipart" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(UserError, match=r"python_multipart is missing.*usseg-ray\[serve\]"):
        check_extra()
