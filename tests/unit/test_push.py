"""`push`: a model is named as everywhere, and what is refused is a line."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from tests import hub
from tests.integration.commands import here
from tests.unit.models.conftest import kept


def test_a_model_is_pushed_by_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path / "runs" / "dunes", "kmeans")
    with hub.opened() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
        done = here("push", "--model", "dunes", "--to", "hf://me/dunes", folder=tmp_path)
        again = here("push", "--model", "lost", "--to", "hf://me/dunes", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "me/dunes" in done.stdout
    assert "model.yaml" in server.repositories["me/dunes"]
    assert again.returncode == 2
