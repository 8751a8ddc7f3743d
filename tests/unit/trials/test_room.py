"""Room on a disk is looked for before a sweep, and after its first trial."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests import tiny
from usseg_ray.engine.context import PlainContext
from usseg_ray.sweeps.plan import make_plan
from usseg_ray.sweeps.request import Request, with_spaces
from usseg_ray.trials.room import PICTURE_BYTES, kept_bytes, lacking_room, run_bytes
from usseg_ray.trials.worker import build_run

SIZES = {"data.train_size": 48, "data.eval_size": 48, "train.steps_per_epoch": 1}
DRAWN = {"picie": {"method.network.pretrained": False}}


@pytest.mark.parametrize("method", ["acseg", "kmeans", "picie", "stego"])
def test_checkpoints_take_what_was_foretold(tmp_path: Path, method: str) -> None:
    tiny.write(tmp_path / "set")
    request = Request(
        methods=with_spaces([method], None),
        data=str(tmp_path / "set"),
        assigned={"backbone.name": "textons", **SIZES, **DRAWN.get(method, {})},
        calibrate="off",
    )
    (job,) = make_plan(request).on("cpu", "", {}).first_jobs()
    place = PlainContext(torch.device("cpu"), [])
    run = build_run(job.with_training(epochs=1, steps_per_epoch=1, batch_size=4), place)
    run.fit()
    assert place.state is not None
    place.state.save(tmp_path / "saved")
    foretold = run_bytes(job) - PICTURE_BYTES * 48**2
    # Tables and names take some; k-means' centroids are none before they are found.
    assert 3 * kept_bytes(tmp_path / "saved") == pytest.approx(foretold, rel=0.1, abs=300_000)


def test_a_disk_without_room_for_the_runs_to_come_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trial_000" / "train").mkdir(parents=True)
    (tmp_path / "trial_000" / "train" / "checkpoint.pt").write_bytes(bytes(2_000_000))
    each = kept_bytes(tmp_path / "trial_000")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    assert lacking_room(tmp_path, each, 5) == ""
    assert lacking_room(tmp_path, each, 6).startswith(
        f"{tmp_path}: 10.0 MB are free, and the 6 runs to come take about 12.0 MB"
    )
