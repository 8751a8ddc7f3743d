"""What is said where weights cannot be had: no network, no leave, no such file."""

import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.conftest import PROJECT
from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.errors import UserError
from usseg_ray.features.backbones import TimmFeatures
from usseg_ray.features.presets import PRESETS
from usseg_ray.features.weights import check_weights

UNREACHABLE = """
import time
from usseg_ray.features.weights import check_weights
from usseg_ray.features.presets import PRESETS
from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.errors import UserError
for preset in PRESETS[1:]:
    started = time.monotonic()
    try:
        check_weights(preset.config)
    except UserError as error:
        print(time.monotonic() - started, preset.name, error)
"""


def refused(tmp_path: Path, port: int) -> list[str]:
    """Asks for the weights of all presets at a port of this machine."""
    place = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | place
    done = subprocess.run(
        [sys.executable, "-c", UNREACHABLE],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=PROJECT,
    )
    return done.stdout.splitlines()


class _Closed(BaseHTTPRequestHandler):
    code = 401

    def do_HEAD(self) -> None:
        self.send_error(self.code)


@pytest.mark.parametrize(
    ("code", "reason", "first"),
    [
        (None, "Connection refused", "connect and run again"),
        (401, "HTTP 401", "accept the terms there, run `hf auth login`"),
        (404, "HTTP 404", "connect and run again"),
    ],
)
def test_weights_that_cannot_be_had_end_in_a_line_with_three_ways_on(
    tmp_path: Path, code: int | None, reason: str, first: str
) -> None:
    # Port 9 of this machine: nothing listens there.
    lines = refused(tmp_path, 9) if code is None else []
    if code is not None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("_", (_Closed,), {"code": code}))
        Thread(target=server.serve_forever, daemon=True).start()
        with server:
            lines = refused(tmp_path, server.server_port)
            server.shutdown()
    networks = [preset for preset in PRESETS if preset.config.name != "textons"]
    assert len(lines) == len(networks)
    for line, preset in zip(lines, networks, strict=True):
        seconds, name, said = line.split(" ", 2)
        assert float(seconds) < 10
        assert name == preset.name
        assert f"The weights of {preset.config.name} are not in the local cache" in said
        assert f"/timm/{preset.config.name} (" in said
        assert reason in said
        assert preset.licence.split()[0].lower() in said.lower()
        ways = re.search(r"Three ways on: (.*); (.*); (.*)", said)
        assert ways is not None
        assert first in ways[1]
        assert "save model.safetensors of that page" in ways[2]
        assert "backbone.weights=" in ways[2]
        assert "backbone.name=textons" in ways[3]


def test_a_download_that_is_refused_ends_in_the_same_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise FileNotFoundError("Cannot find the requested files\nin the cache")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(UserError, match=r"from https://.*/vit_small_patch16_224\.dino \(Cannot"):
        TimmFeatures(BackboneConfig(name="vit_small_patch16_224.dino"))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vit_smal_patch16_224", "vit_small_patch16_224"),
        ("resnet81", "resnet18"),
        ("mobilenetv2_10", "mobilenetv2_100"),
    ],
)
def test_an_unknown_model_names_near_ones(name: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"{name!r} is no timm model; did you mean .*'{near}'"):
        check_weights(BackboneConfig(name=name))


def test_an_unknown_tag_names_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"no published weights; timm has .*\.dino"):
        check_weights(BackboneConfig(name="vit_small_patch8_224.dinoo"))


def test_textons_have_no_weights() -> None:
    with pytest.raises(UserError, match=r"backbone\.weights = x\.safetensors: textons have no"):
        check_weights(BackboneConfig(name="textons", weights="x.safetensors"))
