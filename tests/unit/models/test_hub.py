"""Models on the Hub: pushed, fetched and opened through its own client, on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests import hub
from tests.ledgers import free_port
from usseg_ray.core.errors import UserError
from usseg_ray.models.description import MODEL_FILE, read_description
from usseg_ray.models.folder import WEIGHTS_FILE
from usseg_ray.models.hub import fetch, push
from usseg_ray.models.segmenter import Segmenter


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
    with hub.opened() as opened:
        yield opened


def test_a_pushed_model_is_fetched_and_opens(model: Path, server: hub.Hub) -> None:
    (model / "notes.txt").write_text("stays here")
    address = push(model, "hf://me/dunes", endpoint=server.address)
    (model / "notes.txt").unlink()
    assert address == f"{server.address}/me/dunes"
    assert server.private == {"me/dunes": True}
    assert set(server.repositories["me/dunes"]) == {path.name for path in model.iterdir()}
    # Once more into the same repository.
    push(model, "hf://me/dunes", endpoint=server.address)
    # What else lies in a repository is not fetched.
    server.repositories["me/dunes"]["evil.py"] = b"raise SystemExit"
    folder = fetch("hf://me/dunes", endpoint=server.address)
    assert not (folder / "evil.py").exists()
    assert (folder / WEIGHTS_FILE).read_bytes() == (model / WEIGHTS_FILE).read_bytes()
    assert read_description(folder) == read_description(model)
    assert Segmenter.open(folder).num_clusters == 3
    assert not server.missed


def test_what_is_refused_is_said_in_a_line(
    model: Path, server: hub.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="hf://me/lost: cannot be fetched"):
        fetch("hf://me/lost", endpoint=server.address)
    server.repositories["me/other"] = {"README.md": b"text"}
    with pytest.raises(UserError, match=f"no model of usseg_ray \\({MODEL_FILE} is not in it"):
        fetch("hf://me/other", endpoint=server.address)
    with pytest.raises(UserError, match="expected hf://OWNER/NAME"):
        fetch("hf://me", endpoint=server.address)
    with pytest.raises(UserError, match="no model"):
        push(model.parent, "hf://me/dunes", endpoint=server.address)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="hf auth login") as error:
        push(model, "hf://me/dunes", endpoint=server.address)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be uploaded"):
        push(model, "hf://me/dunes", endpoint=f"http://127.0.0.1:{free_port()}")
