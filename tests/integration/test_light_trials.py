"""Trials in their own process beside those in worker groups: the same scores and records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.test_sweep import check_champion, plan_for, run
from usseg_ray.core.config import flatten
from usseg_ray.engine.checkpoint import BEST, RunState
from usseg_ray.engine.context import PlainContext
from usseg_ray.scoring.arrays import ARRAYS
from usseg_ray.scoring.evaluation import Evaluation
from usseg_ray.sweeps.finals.scores import load_final
from usseg_ray.sweeps.plan import Plan
from usseg_ray.sweeps.request import kept_at, with_spaces
from usseg_ray.sweeps.tables import Outcome
from usseg_ray.trials.rescore import ScoringRequest, evaluate_trial
from usseg_ray.trials.trial import CHECKPOINTS, Trial
from usseg_ray.trials.worker import build_run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "second" not in name}


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / ARRAYS) as file:
        return dict(file)


def test_both_forms_give_the_same_scores_for_the_same_seed(tmp_path: Path, scenes: Path) -> None:
    found: dict[str, Trial] = {}
    for version, form in enumerate(("auto", 1), start=1):
        folder = tmp_path / str(form)
        assigned = {"resources.num_workers": form}
        plan = plan_for(folder, scenes, assigned=assigned, register_as="forms", baselines=False)
        outcome, text = run(plan, folder)
        check_champion(folder, "forms", "trial_000", version)
        (found[str(form)],) = outcome.trials
        assert ("Trials run in their own process: about " in text) == (form == "auto")
    light, group = found["auto"], found["1"]
    assert light.settings["resources.num_workers"] == 0
    assert light.status == group.status == "FINISHED"
    assert timeless(light.metrics) == timeless(group.metrics)
    for place in (light.name, f"finalists/{light.name}-seed0/test"):
        one, other = arrays(tmp_path / "auto" / place), arrays(tmp_path / "1" / place)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one), place
    finals = [load_final(tmp_path / form) for form in ("auto", "1")]
    assert finals[0] == finals[1]

    home = tmp_path / "auto" / light.name
    assert light.checkpoint == str(home / CHECKPOINTS / "epoch_0002")
    kept = sorted(path.name for path in (home / CHECKPOINTS).iterdir())
    assert kept == ["epoch_0001", "epoch_0002"]
    assert RunState.is_in(home / BEST)
    scored = evaluate_trial(str(home), ScoringRequest(), kept_at)
    assert scored.metrics["unsup_miou"] == finals[0]["trial_000-seed0"]["unsup_miou"]


def processes(folder: Path) -> dict[str, int]:
    """Finds the processes in which trials, finalists and baselines of a sweep ran."""
    return {
        file.parent.name: json.loads(file.read_text().splitlines()[0])["pid"]
        for file in folder.glob(".tune/*/result.json")
    }


def test_a_sweep_starts_its_processes_once(tmp_path: Path, scenes: Path) -> None:
    asked: dict[str, Any] = {
        "methods": with_spaces(["acseg"], None),
        "assigned": {"resources.num_workers": 0, "resources.cpus_per_worker": 1.5},
        "num_samples": 4,
        "finalists": 2,
        "seeds": 2,
    }
    found = dict[str, Outcome]()
    # One whose trials have a time budget trains its finalists when they have ended.
    for name, budget_s in (("once", None), ("twice", 600.0)):
        folder = tmp_path / name
        found[name], text = run(plan_for(folder, scenes, time_budget_s=budget_s, **asked), folder)
        assert text.count("trial_00") > 4
    once, twice = found["once"], found["twice"]
    assert [len(set(processes(tmp_path / name).values())) for name in found] == [2, 4]
    assert once.concurrent == 2
    assert once.baselines == twice.baselines
    assert set(once.baselines) == {"val", "test"}
    assert [timeless(trial.metrics) for trial in once.trials] == [
        timeless(trial.metrics) for trial in twice.trials
    ]
    assert [(one.trial.name, one.scores) for one in once.finals] == [
        (one.trial.name, one.scores) for one in twice.finals
    ]
    assert [one.runs.keys() for one in once.finals] == 2 * [{0, 1}]


class KilledError(Exception):
    """Stands for a SIGKILL."""


class Killed(PlainContext):
    """Dies when the first epoch is committed and not yet reported."""

    def report(
        self, metrics: dict[str, float], state: RunState, evaluation: Evaluation | None
    ) -> None:
        super().report(metrics, state, evaluation)
        raise KilledError


def begin(plan: Plan, folder: Path) -> None:
    """Leaves what a light trial leaves that is killed in its second epoch."""
    (job,) = plan.in_processes(0).first_jobs()
    context = Killed(torch.device("cpu"), [])
    with pytest.raises(KilledError):
        build_run(job, context).fit()
    record = Trial(0, "acseg", {}, flatten(job.config), epochs=2)
    record.save(folder)
    committed = folder / record.name / CHECKPOINTS / "epoch_0001"
    assert context.state is not None
    context.state.save(committed)
    # Half of the next one.
    (committed.parent / "epoch_0002").mkdir()


def test_a_killed_light_trial_goes_on_from_its_checkpoint(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "killed"
    assigned = {"resources.num_workers": "auto"}
    plan = plan_for(folder, scenes, assigned=assigned, finalists=0, baselines=False)
    begin(plan, folder)
    outcome, text = run(plan, folder)
    (trial,) = outcome.trials
    # Its record says in which form it began.
    assert "own process" not in text
    assert (trial.status, trial.settings["resources.num_workers"]) == ("FINISHED", 0)
    (results,) = folder.glob(".tune/*/result.json")
    assert [json.loads(line)["epoch"] for line in results.read_text().splitlines()] == [2]
    kept = sorted(path.name for path in (folder / trial.name / CHECKPOINTS).iterdir())
    assert kept == ["epoch_0001", "epoch_0002"]

    whole = PlainContext(torch.device("cpu"), [])
    build_run(plan.first_jobs()[0], whole).fit()
    assert timeless(trial.metrics) == timeless(whole.history[-1])


def test_a_light_trial_that_fails_says_why(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "failing"
    # The first epoch's only step is taken with sound weights, the second's is not.
    steps = {"train.steps_per_epoch": 1, "method.lr": 1e37}
    changed = steps | {"resources.num_workers": "auto"}
    outcome, text = run(plan_for(folder, scenes, assigned=changed, baselines=False), folder)
    (trial,) = outcome.trials
    assert trial.status == "FAILED"
    assert str(trial.reason).startswith("usseg_ray.engine.epoch.NonFiniteLossError: loss is ")
    assert "trying one out failed (usseg_ray.engine.epoch.NonFiniteLossError: loss is" in text
    # It was tried twice, the second time from here.
    assert trial.metrics["epoch"] == 1
    assert Path(str(trial.checkpoint)).name == "epoch_0001"
    assert Path(str(trial.checkpoint)).is_dir()
