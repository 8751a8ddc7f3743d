"""The command's refusals, each before Ray is started."""

import socket
from pathlib import Path

import pytest

from tests.integration.commands import here
from usseg_ray.serve.access import VARIABLE


def test_what_cannot_be_served_is_a_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("serve", "--model", model)
    missing = here("serve", "--model", tmp_path / "gone")
    assert (missing.returncode, "no such folder" in missing.stderr) == (2, True)
    outside = here(*asked, "--host", "0.0.0.0")
    assert (outside.returncode, "there is no token" in outside.stderr) == (2, True)
    monkeypatch.setenv(VARIABLE, "short")
    weak = here(*asked, "--host", "0.0.0.0")
    assert (weak.returncode, "expected one token" in weak.stderr) == (2, True)
    assert "short" not in weak.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = here(*asked, "--port", str(port))
    assert (found.returncode, f"--port {port}: taken" in found.stderr) == (2, True)
    for ended in (missing, outside, weak, found):
        assert "Traceback" not in ended.stderr
