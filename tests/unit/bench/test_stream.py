from pathlib import Path

import pytest
import torch

from tests import tiny
from usseg_ray.bench import stream as module
from usseg_ray.bench.stream import _Pieces, _Side
from usseg_ray.core.views import Frame
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.plans import training_plan
from usseg_ray.data.reading import Showing, read_piece, stream_here


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return tiny.write(tmp_path, splits={"train": 24})


def test_the_loader_reads_what_the_stream_does(tmp_path: Path, manifest: Manifest) -> None:
    plan = training_plan(manifest, "train", seed=0, epoch=0, rows=24, rank=0, world=1)
    showing = Showing(Frame(tiny.SIDE))
    pieces = _Pieces(str(tmp_path), plan, showing)
    assert len(pieces) == len(plan)
    ours, theirs = read_piece(str(tmp_path), plan[0], showing), pieces[0]
    assert theirs["id"].tolist() == ours["id"].tolist()
    assert torch.equal(theirs["image"], torch.from_numpy(ours["image"]))


def test_waits_are_counted_in_batches(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 4)
    side = _Side(str(tmp_path), manifest, stream_here, 32)
    assert side.batches == 8
    side.take(3)
    side.take(99, timed=True)
    side.close()
    assert side.rate > 0
    assert side.gap >= 0
    assert side.longest_wait > 0
