"""Trials are chosen without labels, and a sweep answers how many clusters there are."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests import tiny
from tests.fitting import CLOCKS
from tests.ledgers import lay_store
from tests.reported import Page
from usseg_ray.core.records import read_json
from usseg_ray.models.description import read_description
from usseg_ray.report.page import as_html
from usseg_ray.report.read import Store
from usseg_ray.report.repeat import compose
from usseg_ray.scoring.objective import CONSENSUS, CRITERIA, STABILITY, WITHOUT_LABELS
from usseg_ray.sweeps.criteria import CRITERIA_FILE, Trust
from usseg_ray.sweeps.plan import make_plan
from usseg_ray.sweeps.request import Request
from usseg_ray.sweeps.space import find_space
from usseg_ray.sweeps.sweep import run_sweep
from usseg_ray.sweeps.tables import Outcome
from usseg_ray.tracking.ledger import EXPERIMENT
from usseg_ray.trials.tasks import BASELINES_FILE
from usseg_ray.trials.trial import TRAINED, Trial, ranked

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
SETTINGS: dict[str, Any] = {
    key: value
    for key, value in tiny.SETTINGS.items()
    if key not in ("data.name", "num_clusters") and not key.startswith("train.")
} | {"resources.num_workers": 0, "resources.cpus_per_worker": 0.5}


def sweep(folder: Path, data: Path, **changes: Any) -> tuple[Outcome, str]:
    """Runs a sweep whose baselines nobody looks at, in a store of its own."""
    if not folder.exists():
        folder.mkdir()
        lay_store(folder.parent / "mlflow.db")
        (folder / BASELINES_FILE).write_text("{}")
    options: dict[str, Any] = {
        "methods": {"kmeans": str(find_space("kmeans"))},
        "data": str(data),
        "assigned": SETTINGS,
        "num_samples": 2,
        "search": "random",
        "scheduler": "none",
        "finalists": 0,
        "seeds": 1,
        "tracking_uri": f"sqlite:///{folder.parent / 'mlflow.db'}",
        "key": folder.name,
    }
    text = io.StringIO()
    plan = make_plan(Request(**(options | changes)))
    outcome = run_sweep(plan, folder, Console(file=text, width=160))
    return outcome, text.getvalue()


def test_data_without_labels_answers_how_many_clusters(tmp_path: Path) -> None:
    tiny.write(tmp_path / "bare", labelled=False)
    space = tmp_path / "space.yaml"
    space.write_text("fixed: {}\nspace: {num_clusters: {choice: [3, 7]}}")
    asked: dict[str, Any] = {"question": "k", "methods": {"kmeans": str(space)}}
    outcome, text = sweep(tmp_path / "answered", tmp_path / "bare", **asked)
    counts = [trial.settings["num_clusters"] for trial in outcome.trials]
    best = ranked(outcome.trials)[0].settings["num_clusters"]
    # The larger one was best, at the edge of the range: it is passed once, by at most doubling.
    assert counts == [3, 7, 14, 28]
    for trial in outcome.trials:
        assert trial.status == "FINISHED"
        assert trial.score == trial.metrics[WITHOUT_LABELS]
        assert {*CRITERIA, CONSENSUS} <= trial.metrics.keys()
        assert "unsup_miou" not in trial.metrics
    answer = json.loads((tmp_path / "answered/k/kmeans.json").read_text())
    assert [advice["metric"] for advice in answer["advice"]] == [WITHOUT_LABELS, STABILITY]
    assert answer["advice"][0]["k"] == best
    assert {path.name for path in (tmp_path / "answered/k").iterdir()} == {
        "kmeans.json",
        "kmeans.png",
        "kmeans-maps.png",
    }
    assert f"kmeans: {best} clusters (view_information" in text
    assert "28 is the largest K tried" in text
    check_report(tmp_path, outcome)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("answered/trial_*/trial.json")}
    again, _ = sweep(tmp_path / "answered", tmp_path / "bare", **asked)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert again.trials == outcome.trials
    kept = read_description(tmp_path / "answered" / "model")
    assert kept.num_clusters == ranked(outcome.trials)[0].settings["num_clusters"]


def test_a_time_budget_that_is_used_up_tries_nothing_past_the_edge(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    space = tmp_path / "space.yaml"
    space.write_text("fixed: {}\nspace: {num_clusters: {choice: [3, 7]}}")
    asked: dict[str, Any] = {"question": "k", "methods": {"kmeans": str(space)}}
    outcome, text = sweep(tmp_path / "cut", tmp_path / "set", **asked, time_budget_s=0.5)
    assert {trial.settings["num_clusters"] for trial in outcome.trials} <= {3, 7}
    assert "kmeans: no K stands out" in text


def test_heads_that_k_does_not_touch_are_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(tmp_path / "set")
    space = tmp_path / "space.yaml"
    space.write_text("fixed: {method.dim: 8}\nspace: {num_clusters: {choice: [2, 3, 4]}}")
    short = {"train.epochs": 2, "train.eval_every": 2, "train.steps_per_epoch": 3}
    assigned = SETTINGS | short | {"train.batch_size": 4}
    asked: dict[str, Any] = {"question": "k", "methods": {"stego": str(space)}, "seeds": 2}
    once, _ = sweep(tmp_path / "once", tmp_path / "set", **asked, assigned=assigned)
    heads = sorted((tmp_path / "once" / TRAINED).iterdir())
    assert len(heads) == 2
    trained = [trial for trial in once.trials if "train_seconds" in trial.metrics]
    assert sorted(trial.settings["seed"] for trial in trained) == [0, 1]
    # So do the trials of another sweep that agree on all else.
    other: dict[str, Any] = {"methods": {"stego": str(space)}, "assigned": assigned}
    shared, _ = sweep(tmp_path / "shared", tmp_path / "set", **other)
    assert ["train_seconds" in trial.metrics for trial in shared.trials] == [True, False]
    monkeypatch.setattr("usseg_ray.sweeps.tuning.sharing", lambda plan: plan.job)
    each, _ = sweep(tmp_path / "each", tmp_path / "set", **asked, assigned=assigned)
    assert not (tmp_path / "each" / TRAINED).exists()
    assert [found(trial) for trial in once.trials] == [found(trial) for trial in each.trials]
    alone, _ = sweep(tmp_path / "alone", tmp_path / "set", **other)
    assert all("train_seconds" in trial.metrics for trial in alone.trials)
    assert [found(trial) for trial in shared.trials] == [found(trial) for trial in alone.trials]


def found(trial: Trial) -> tuple[Any, ...]:
    """Takes from a record all but where it lies and how long it took."""
    metrics = {k: v for k, v in trial.metrics.items() if k not in CLOCKS}
    return trial.index, trial.method, trial.sample, trial.settings, trial.status, metrics


def check_report(folder: Path, outcome: Outcome) -> None:
    """Checks that the report has the question's sentence, curve, maps and clusters."""
    store = Store(f"sqlite:///{folder / 'mlflow.db'}", EXPERIMENT)
    report = compose(store, store.sweeps(["answered"]), "")
    (answer,) = report.answers
    assert answer.caption == outcome.answer.sentence
    page = Page(as_html(report))
    curve = page.table("view_information over K")
    assert [row[curve.column("K")] for row in curve.rows] == ["3", "7", "14", "28"]
    texts = [image["alt"] for image in page.all("img")]
    assert "Images, and label maps of kmeans with every number of clusters tried." in texts
    assert any(text.startswith("Patches that kmeans trial_") for text in texts)
    # No column of a score that nothing has.
    for table in page.tables:
        assert all(any(column) for column in zip(*table.rows, strict=True)), table.caption


def test_random_labels_change_neither_calibration_nor_choice(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    splits = {**tiny.SPLITS, "train": 50}
    tiny.write(tmp_path / "true", splits=splits)
    tiny.write(
        tmp_path / "random",
        splits=splits,
        relabel=lambda true: random.integers(0, 3, true.shape, np.uint8),
    )
    asked: dict[str, Any] = {
        "methods": {name: str(find_space(name)) for name in ("stego", "acseg", "kmeans")},
        "num_samples": 1,
        "objective": "label_free",
        "effort": "quick",
        "key": "",
        "assigned": {**SETTINGS, "train.steps_per_epoch": 3, "method.lr": 1e-3},
    }
    (true, _), (drawn, _) = (
        sweep(tmp_path / f"of-{labels}", tmp_path / labels, **asked)
        for labels in ("true", "random")
    )
    assert true.trials[0].settings["method.shift_intra"] != 0.45
    scores = [[one.metrics["unsup_miou"] for one in run.trials] for run in (true, drawn)]
    assert scores[0] != scores[1]
    assert [choice(one) for one in true.trials] == [choice(one) for one in drawn.trials]
    assert [one.index for one in ranked(true.trials)] == [one.index for one in ranked(drawn.trials)]


def choice(trial: Trial) -> tuple[Any, ...]:
    """Takes from a record what calibration set, and what a choice without labels goes by."""
    settings = {key: value for key, value in trial.settings.items() if key != "data.name"}
    free = {key: value for key, value in trial.metrics.items() if key.startswith("label_free.")}
    assert free
    return trial.method, settings, free


def test_labels_say_which_criterion_to_trust(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    outcome, text = sweep(
        tmp_path / "ranked", tmp_path / "set", num_samples=4, objective="label_free.modularity"
    )
    order = [trial.metrics["label_free.modularity"] for trial in ranked(outcome.trials)]
    assert order == sorted(order, reverse=True)
    found = read_json(tmp_path / "ranked" / CRITERIA_FILE, list[Trust], "")
    assert {one.criterion for one in found} == {*CRITERIA, CONSENSUS}
    assert all(one.trials == 4 and one.regret >= 0 for one in found)
    assert "Criteria without labels" in text
    assert "modularity" in text
