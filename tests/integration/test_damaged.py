"""A sweep whose files were damaged between two lives ends as it did before."""

import json
from pathlib import Path
from typing import Any

import pytest
from ray.train import UserCallback

from tests import tiny
from tests.integration.test_sweep import SPACE, plan_for, run
from usseg_ray.engine.checkpoint import STATE_FILE
from usseg_ray.sweeps.finals.scores import FINAL_FILE, final_folder
from usseg_ray.trials import trainer
from usseg_ray.trials.job import Job
from usseg_ray.trials.trial import CHECKPOINTS, TEST_SCORES_FILE, TRIAL_FILE

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def last(trial: Path) -> Path:
    return sorted((trial / CHECKPOINTS).glob("epoch_*"))[-1] / STATE_FILE


@pytest.mark.slow
def test_a_damaged_sweep_is_resumed_to_the_same_end(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "damaged"
    space = SPACE.format(key="method.num_prototypes", values="{choice: [3, 5]}")
    plan = plan_for(folder, scenes, space=space, num_samples=2, seeds=2, baselines=False)
    before, _ = run(plan, folder)
    (finalist,) = before.finals
    best = folder / finalist.trial.name
    seed = folder / "finalists" / f"{finalist.trial.name}-seed1"
    for file in (last(best), last(seed)):
        flipped = bytearray(file.read_bytes())
        flipped[len(flipped) // 2] ^= 1
        file.write_bytes(flipped)
    other = next(trial for trial in before.trials if trial is not finalist.trial)
    noted = final_folder(folder, finalist.trial, 1) / TEST_SCORES_FILE
    for file in (folder / other.name / TRIAL_FILE, folder / FINAL_FILE, noted):
        file.write_bytes(b"null")

    after, text = run(plan, folder)
    assert f"{finalist.trial.name} goes on from before it." in text
    assert f"{seed.name} goes on from before it." in text
    assert f"{other.name} goes on from its checkpoint." in text
    assert [trial.score for trial in after.trials] == [trial.score for trial in before.trials]
    assert [trial.status for trial in after.trials] == ["FINISHED", "FINISHED"]
    assert after.finals[0].scores == finalist.scores


@pytest.mark.slow
def test_a_worker_group_goes_on_from_what_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_to_tune", UserCallback)
    tiny.write(tmp_path / "data")
    trial = tmp_path / "trial_000"
    listed = trial / CHECKPOINTS / "checkpoint_manager_snapshot.json"

    def fit(epochs: int) -> dict[str, Any]:
        config = tiny.config(train__epochs=epochs, resources__num_workers=1)
        trainer._WorkerGroup(Job("acseg", config, str(tmp_path / "data")), str(trial)).fit()
        found: dict[str, Any] = json.loads(listed.read_text())["latest_checkpoint_result"][
            "metrics"
        ]
        return found

    whole = fit(2)
    last(trial).write_bytes(b"junk")
    assert fit(2)["unsup_miou"] == whole["unsup_miou"]
    # As a full disk leaves it.
    listed.write_bytes(b"")
    assert fit(2)["unsup_miou"] == whole["unsup_miou"]
