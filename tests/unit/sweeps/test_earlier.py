import json
from pathlib import Path
from typing import Any

import pytest

from tests.planned import plan
from usseg_ray.core.config import flatten
from usseg_ray.core.errors import UserError
from usseg_ray.sweeps.earlier import agreed, known_trials, left_out, offer
from usseg_ray.sweeps.method_plan import first_settings
from usseg_ray.sweeps.plan import Plan
from usseg_ray.trials.trial import Trial

MIOU = "unsup_miou"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return plan(search="optuna")


def leave(made: Plan, run: str, scores: list[float | None], **changed: Any) -> None:
    settings = flatten(made.config) | changed
    for index, score in enumerate(scores):
        metrics = {} if score is None else {MIOU: score}
        trial = Trial(index, "acseg", {}, settings, 3, "FINISHED", metrics)
        trial.save(Path("runs") / run)


def scores(found: tuple[Trial, ...]) -> list[float | None]:
    return [trial.score for trial in found]


def test_trials_of_the_named_runs_are_known(made: Plan) -> None:
    leave(made, "one", [30.0, None])
    leave(made, "two", [40.0], **{"method.gamma": 1.9})
    leave(made, "other", [50.0], **{"data.eval_size": 160})
    assert scores(known_trials("one", first_settings(made.parts), MIOU)) == [30.0]
    assert scores(known_trials("one,two", first_settings(made.parts), MIOU)) == [30.0, 40.0]
    assert scores(known_trials("all", first_settings(made.parts), MIOU)) == [30.0, 40.0]


def test_runs_that_compare_are_offered(made: Plan) -> None:
    assert offer(first_settings(made.parts), MIOU) == ""
    leave(made, "one", [30.0, 20.0])
    leave(made, "other", [50.0], **{"backbone.name": "vit_small_patch16_224.dino"})
    assert offer(first_settings(made.parts), MIOU) == (
        "Earlier sweeps of this data: one (2 trials). --warm-start all learns from them."
    )
    assert offer(first_settings(made.parts), "label_free.entropy") == ""


def test_nothing_that_compares_is_an_error(made: Plan) -> None:
    leave(made, "other", [50.0], **{"data.eval_size": 160})
    for names in ("other", "all"):
        with pytest.raises(UserError, match=f"--warm-start {names}: no trial has a score"):
            known_trials(names, first_settings(made.parts), MIOU)
    with pytest.raises(UserError, match="nowhere: no such run"):
        known_trials("other,nowhere", first_settings(made.parts), MIOU)


def test_a_sweep_without_labels_does_not_learn_from_what_labels_picked(made: Plan) -> None:
    criterion = "label_free.entropy"
    settings = flatten(made.config)
    for run, objective in (("ranked", MIOU), ("free", criterion)):
        metrics = {MIOU: 30.0, criterion: 0.5}
        trial = Trial(0, "acseg", {}, settings, 3, "FINISHED", metrics, objective=objective)
        trial.save(Path("runs") / run)
    known = first_settings(made.parts)
    assert scores(known_trials("free", known, criterion)) == [0.5]
    assert scores(known_trials("all", known, criterion)) == [0.5]
    assert left_out(criterion) == (
        "--warm-start all leaves out sweeps ranked by labels: label_free.entropy does without."
    )
    with pytest.raises(UserError, match="labels picked the trials of ranked, and label_free"):
        known_trials("free,ranked", known, criterion)
    assert offer(known, criterion).startswith("Earlier sweeps of this data: free (1 trials).")
    # One that is ranked by labels anyway may learn from both.
    assert len(known_trials("all", known, MIOU)) == 2
    assert left_out(MIOU) == ""


def test_a_run_of_another_version_is_told_where_it_was_named(made: Plan) -> None:
    leave(made, "one", [30.0])
    record = Path("runs/old/trial_000/trial.json")
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"number": 0}))
    assert scores(known_trials("all", first_settings(made.parts), MIOU)) == [30.0]
    with pytest.raises(
        UserError,
        match=r"trial\.json is damaged: .* If another version of usseg_ray wrote it, read it",
    ):
        known_trials("old", first_settings(made.parts), MIOU)


def test_what_methods_agree_in() -> None:
    one = {"seed": 0, "method.lr": 1, "train.epochs": 3}
    assert agreed([one]) == one
    assert agreed([one, {"seed": 0, "method.lr": 1, "train.epochs": 4}]) == {"seed": 0}
