"""A worker in this process: what it answers, in batches, and what it says of itself."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ray.serve._private import replica

from tests import tiny
from tests.unit.serve.conftest import run
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.serve.answers import Wish
from usseg_ray.serve.worker import ModelWorker


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The addresses that Ray Serve would listen on."""
    threads = torch.get_num_threads()
    addresses: list[str] = []
    opens: Any = lambda _, address: addresses.append(address)  # noqa: E731
    monkeypatch.setattr(replica, "add_port_to_grpc_server", opens)
    yield addresses
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("opened")
def test_images_of_several_sizes_are_answered_together(model: Path, segmenter: Segmenter) -> None:
    shapes = [(32, 32), (48, 64), (32, 32), (64, 48), (48, 64)]
    images = [tiny.picture(number, shape)[0] for number, shape in enumerate(shapes)]
    worker = ModelWorker(str(model), "cpu", 1)
    assert run(worker.ready()) == ""
    wishes = [Wish("json" if number == 3 else "png") for number in range(5)]
    answers = worker.segmented(list(zip(images, wishes, strict=True)))
    for number in (0, 1, 2, 4):
        with Image.open(io.BytesIO(answers[number])) as picture:
            alone = segmenter.segment(images[number]).mask
            assert np.mean(np.asarray(picture) == alone) > 0.999
    assert json.loads(answers[3])["height"] == 64


@pytest.mark.usefixtures("opened")
def test_what_cannot_be_decoded_is_answered(model: Path) -> None:
    found = run(ModelWorker(str(model), "cpu", 1).answer(b"no image", Wish()))
    assert (found.content, "not a JPEG" in found.reason) == (b"", True)


def test_a_port_of_ray_serve_is_kept_to_this_machine(model: Path, opened: list[str]) -> None:
    run(ModelWorker(str(model), "cpu", 1).ready())
    replica.add_port_to_grpc_server(None, "[::]:0")
    assert opened == ["127.0.0.1:0"]


@pytest.mark.usefixtures("opened")
def test_what_is_wrong_is_said_when_it_is_asked(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "model.yaml" in run(ModelWorker(str(tmp_path), "cpu", 1).ready())
    monkeypatch.delattr(replica, "add_port_to_grpc_server")
    assert "install ray 2.60" in run(ModelWorker(str(model), "cpu", 1).ready())
