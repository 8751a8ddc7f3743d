"""A sweep that starts from the model of another: kept with it, resumed, and loaded without it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.test_sweep import SMALL, plan_for, run
from usseg_ray.models.folder import WEIGHTS_FILE
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.sweeps.method_plan import kept_origin
from usseg_ray.sweeps.plan import make_plan
from usseg_ray.sweeps.request import Request

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

UNSET = {key for key in SMALL if key.startswith("method.")}


def test_primaps_starts_from_a_trained_stego(
    tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Keys of another method's settings are in the small ones.
    own = {key: value for key, value in SMALL.items() if key not in UNSET}
    monkeypatch.setattr("tests.integration.test_sweep.SMALL", own)
    common: dict[str, Any] = {"baselines": False, "finalists": 0}
    stego = plan_for(
        tmp_path / "one",
        scenes,
        methods={"stego": None},
        assigned={"method.dim": 8},
        **common,
    )
    run(stego, tmp_path / "one")

    folder = tmp_path / "two"
    plan = plan_for(
        folder,
        scenes,
        methods={"primaps": None},
        assigned={"method.init_from": str(tmp_path / "one")},
        **common,
    )
    plan.request.begun("two", None, kept_origin(plan.parts)).save(folder)
    outcome, _ = run(plan, folder)
    (trial,) = outcome.trials
    assert trial.status == "FINISHED"
    assert trial.settings["method.origin.method"] == "stego"

    # Broken off after an epoch, it goes on as what it was.
    last = folder / trial.name / "train/epoch_0002"
    shutil.rmtree(last)
    replace(trial, status="RUNNING").save(folder)
    again, _ = run(make_plan(Request.load(folder)), folder)
    assert last.is_dir()
    score = trial.metrics["unsup_miou"]
    assert again.trials[0].metrics["unsup_miou"] == score

    # Its model needs the other one no more.
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    before = Segmenter.open(folder / "model", torch.device("cpu")).segment(image).mask
    (tmp_path / "one" / "model" / WEIGHTS_FILE).unlink()
    found = Segmenter.open(folder / "model", torch.device("cpu"))
    assert found.description.config["method.init_from"] == WEIGHTS_FILE
    assert np.array_equal(found.segment(image).mask, before)
