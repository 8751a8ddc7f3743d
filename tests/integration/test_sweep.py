"""The main job with real Ray and a real MLflow store: trials, baselines, final score, resume."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from rich.console import Console

from tests.ledgers import lay_store
from usseg_ray.core.errors import UserError
from usseg_ray.core.table import Table
from usseg_ray.data import synthetic
from usseg_ray.engine.baselines import BASELINES
from usseg_ray.models.description import Description, write_description
from usseg_ray.models.find import find_model
from usseg_ray.models.names import Names
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.report.details import cost
from usseg_ray.report.read import Store
from usseg_ray.sweeps.finals.scores import Finalist
from usseg_ray.sweeps.plan import Plan, make_plan
from usseg_ray.sweeps.request import Request, with_spaces
from usseg_ray.sweeps.sweep import run_sweep
from usseg_ray.sweeps.tables import Outcome
from usseg_ray.tracking.ledger import EXPERIMENT
from usseg_ray.trials.tasks import BASELINES_FILE

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

SMALL: dict[str, Any] = {
    "backbone.name": "textons",
    "data.train_size": 48,
    "data.eval_size": 48,
    "train.epochs": 2,
    "train.steps_per_epoch": 4,
    "train.batch_size": 8,
    "method.num_blocks": 1,
    "method.num_heads": 3,
    "method.warmup_steps": 2,
    "method.lr": 0.01,
    "resources.num_workers": 0,
    # What is worth storing hangs on how fast the machine is just now.
    "resources.features": "recompute",
    "resources.cpus_per_worker": 0.5,
    "resources.data_cpus_per_worker": 0.25,
}
SPACE = """
fixed: {{}}
space:
  {key}: {values}
"""


def plan_for(folder: Path, data: Path, *, space: str | None = None, **changes: Any) -> Plan:
    """Plans a small sweep; with `baselines=False` none is computed, where no test looks at them."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (store := folder.parent / "mlflow.db").exists():
        lay_store(store)
    if not changes.pop("baselines", True):
        (folder / BASELINES_FILE).write_text("{}")
    path = None
    if space is not None:
        path = folder.parent / f"{folder.name}.yaml"
        path.write_text(space)
    options: dict[str, Any] = {
        "methods": {"acseg": None if path is None else str(path)},
        "data": str(data),
        "assigned": SMALL | changes.pop("assigned", {}),
        "num_samples": 1,
        "search": "random",
        "scheduler": "none",
        "finalists": 1,
        "seeds": 1,
        "tracking_uri": f"sqlite:///{store}",
        "key": folder.name,
    }
    request = Request(**(options | changes))
    request.save(folder)
    return make_plan(request)


def run(plan: Plan, folder: Path) -> tuple[Outcome, str]:
    text = io.StringIO()
    outcome = run_sweep(plan, folder, Console(file=text, width=120))
    return outcome, text.getvalue()


def runs_of(folder: Path) -> tuple[Any, list[Any]]:
    """Returns the sweep's parent run and its children."""
    parent, children, _ = all_runs_of(folder)
    return parent, children


def all_runs_of(folder: Path) -> tuple[Any, list[Any], list[Any]]:
    """Returns the sweep's parent run, its children and its finalists' runs."""
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "usseg_ray"]
    found = client.search_runs([experiment.experiment_id], f"tags.`usseg.sweep` = '{folder.name}'")
    parents = [r for r in found if "mlflow.parentRunId" not in r.data.tags]
    below = [r for r in found if "mlflow.parentRunId" in r.data.tags]
    finalists = [r for r in below if "usseg.seed" in r.data.tags]
    assert len(parents) == 1
    return parents[0], [r for r in below if r not in finalists], finalists


def artifacts(folder: Path, run_id: str) -> set[str]:
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    return {a.path for a in client.list_artifacts(run_id, "pictures")}


def test_a_sweep_ranks_its_trials_and_keeps_them_in_mlflow(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "ranked"
    space = SPACE.format(key="method.num_prototypes", values="{choice: [3, 5]}")
    several: dict[str, Any] = {"num_samples": 2, "finalists": 2, "seeds": 2}
    plan = plan_for(folder, scenes, space=space, register_as="ranked", **several)
    outcome, text = run(plan, folder)

    assert [t.status for t in outcome.trials] == ["FINISHED", "FINISHED"]
    assert set(outcome.baselines["val"]) == set(BASELINES)
    first, second = outcome.finals
    assert {first.trial.name, second.trial.name} == {"trial_000", "trial_001"}
    assert first.selection.keys() == first.scores.keys() == {0, 1}
    assert sum(first.selection.values()) >= sum(second.selection.values())
    assert first.selection[0] == first.trial.score
    assert first.scores[0]["unsup_miou"] != first.scores[1]["unsup_miou"]
    check_interval(second)
    assert outcome.peak_bytes > 2**28
    check_cost(folder, text)
    mosaic = f"{folder}/finalists/{first.trial.name}-seed0/test/pictures/mosaic.png"
    rows = ("trial_000", "trial_001", "position (floor)", "linear (supervised)")
    said = (*rows, "Finalists on test", "mlflow ui", f"worst: {mosaic}")
    assert not [word for word in said if word not in text]

    parent, children = runs_of(folder)
    assert (parent.info.status, len(children)) == ("FINISHED", 2)
    spread = first.spread("unsup_miou")
    assert spread is not None
    assert parent.data.metrics["test.unsup_miou"] == pytest.approx(spread.mean)
    assert parent.data.metrics["test.unsup_miou_std"] == pytest.approx(spread.deviation)
    check_finalists(folder, outcome)
    check_champion(folder, "ranked", first.trial.name, version=1)
    for child in children:
        assert child.info.status == "FINISHED"
        assert child.data.metrics["unsup_miou"] > 0
        assert child.data.metrics["baseline.position"] > 0
        assert child.data.params["method.num_prototypes"] in {"3", "5"}
        assert {"pictures/mosaic.png", "pictures/confusion.png"} <= artifacts(
            folder, child.info.run_id
        )

    scores = check_model(folder).scores
    assert scores is not None
    assert scores.values["unsup_miou"] == pytest.approx(first.metrics()["test.unsup_miou"])
    assert (scores.seeds, set(scores.floors)) == (2, set(outcome.baselines["test"]))
    assert scores.protocol.startswith("scenes test, centre-crop")
    named = name_model(folder)

    before = {p: p.stat().st_mtime_ns for p in folder.glob("trial_*/trial.json")}
    again, _ = run(make_plan(Request.load(folder)), folder)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("trial_*/trial.json")} == before
    assert [t.metrics for t in again.trials] == [t.metrics for t in outcome.trials]
    assert [f.scores for f in again.finals] == [f.scores for f in outcome.finals]
    assert len(runs_of(folder)[1]) == 2
    check_finalists(folder, outcome)
    check_champion(folder, "ranked", first.trial.name, version=1)
    assert check_model(folder) == named


def check_interval(finalist: Finalist) -> None:
    assert finalist.behind is not None
    low, high = finalist.behind.low, finalist.behind.high
    assert low is not None
    assert high is not None
    assert low <= finalist.behind.mean <= high


def check_cost(folder: Path, text: str) -> None:
    """Checks that the report sums up the time that the screen does, of as many runs."""
    store = Store(f"sqlite:///{folder.parent / 'mlflow.db'}", EXPERIMENT)
    said = re.search(r"Training and scoring: ([\d.]+) s in all (\d+) runs", text)
    assert said is not None
    (table,) = cost(store, store.sweeps([folder.name])).blocks
    assert isinstance(table, Table)
    (total,) = [row.cells for row in table.rows if row.cells["name"] == f"all {said[2]} runs"]
    assert f"{total['seconds']:.1f}" == said[1]


def name_model(run: Path) -> Description:
    """Names a cluster as a person does: a resumed sweep trains nothing again, so it stays."""
    about = check_model(run)
    tree = about.names.tree()
    tree[0]["name"] = "meadow"
    named = about.model_copy(update={"names": Names.of_tree(tree, "a test")})
    write_description(named, run / "model")
    return named


def check_model(run: Path) -> Description:
    """Checks that a run keeps a model that segments, and returns its description."""
    opened = Segmenter.open(find_model(str(run)))
    found = opened.segment(synthetic.scene(7, "val", 0)[0])
    assert found.mask.shape == found.confidence.shape == synthetic.scene(7, "val", 0)[1].shape
    assert 0 <= found.mask.min() <= found.mask.max() < opened.num_clusters
    return opened.description


def check_champion(folder: Path, name: str, trial: str, version: int) -> None:
    """Checks which version of a model is its champion: the newest, made by a trial of a sweep."""
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    champion = client.get_model_version_by_alias(name, "champion")
    (run,) = [c for c in runs_of(folder)[1] if c.data.tags["usseg.trial"] == trial]
    assert (int(champion.version), champion.run_id) == (version, run.info.run_id)
    versions = client.search_model_versions(f"name = '{name}'")
    assert sorted(int(v.version) for v in versions) == list(range(1, version + 1))


def check_finalists(folder: Path, outcome: Outcome) -> None:
    """Checks that every seed of a finalist has one run, from which its score can be had again."""
    parent, children, finalists = all_runs_of(folder)
    assert parent.data.tags["usseg.finalists"].split() == [f.trial.name for f in outcome.finals]
    trials = {child.info.run_id: child.data.tags["usseg.trial"] for child in children}
    assert len(finalists) == 4
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    for finalist in finalists:
        tags, metrics = finalist.data.tags, finalist.data.metrics
        assert finalist.info.status == "FINISHED"
        assert trials[tags["mlflow.parentRunId"]] == tags["usseg.trial"]
        (of,) = [f for f in outcome.finals if f.trial.name == tags["usseg.trial"]]
        scores = of.scores[int(tags["usseg.seed"])]
        assert metrics["test.unsup_miou"] == scores["unsup_miou"]
        assert finalist.data.params["seed"] == tags["usseg.seed"]
        with np.load(client.download_artifacts(finalist.info.run_id, "images.npz")) as file:
            hits = file["intersection"].sum(0)
            union = (file["actual"] + file["predicted"]).sum(0) - hits
        seen = union > 0
        assert 100 * (hits[seen] / union[seen]).mean() == pytest.approx(scores["unsup_miou"])


@pytest.mark.slow
def test_a_sweep_across_methods_ranks_them_in_one_table(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "across"
    names = ["acseg", "kmeans", "position"]
    plan = plan_for(folder, scenes, methods=with_spaces(names, None), num_samples=2, finalists=3)
    outcome, text = run(plan, folder)

    assert [t.status for t in outcome.trials] == ["FINISHED"] * 6
    assert [t.method for t in outcome.trials] == 2 * names
    assert [t.epochs for t in outcome.trials] == 2 * [2, 1, 1]
    records = [json.loads(p.read_text()) for p in sorted(folder.glob("trial_*/trial.json"))]
    assert [record["method"] for record in records] == 2 * names
    assert len(list(folder.glob("trial_*"))) == 6

    best = max(outcome.trials, key=lambda t: t.score or 0.0)
    assert outcome.finals[0].trial.method == best.method
    assert {f.trial.method for f in outcome.finals} == set(names)
    assert text.count("position (floor)") == 1
    assert len(re.findall(r"position +│.*\n\(floor\) ", text)) == 1
    assert "Finalists on test, every run scored once" in text
    assert len(list(folder.glob("finalists/*/test/pictures/mosaic.png"))) == 3

    parent, children = runs_of(folder)
    expected = outcome.finals[0].scores[0]["unsup_miou"]
    assert parent.data.metrics["test.unsup_miou"] == pytest.approx(expected)
    tags = {c.data.tags["usseg.trial"]: c.data.tags["usseg.method"] for c in children}
    assert tags == {t.name: t.method for t in outcome.trials}
    scored = [c for c in children if "test.unsup_miou" in c.data.metrics]
    assert sorted(c.data.tags["usseg.method"] for c in scored) == sorted(names)

    final = (folder / "final.json").stat().st_mtime_ns
    # As if it had been killed between its last checkpoint and the report of it.
    killed = folder / "trial_004" / "trial.json"
    unreported: dict[str, Any] = {"status": "RUNNING", "metrics": {}, "checkpoint": None}
    killed.write_text(json.dumps(records[4] | unreported))
    again, _ = run(make_plan(Request.load(folder)), folder)
    assert [t.status for t in again.trials] == ["FINISHED"] * 6
    assert [t.metrics["unsup_miou"] for t in again.trials] == [
        t.metrics["unsup_miou"] for t in outcome.trials
    ]
    assert Path(str(again.trials[4].checkpoint)).is_dir()
    assert [f.scores for f in again.finals] == [f.scores for f in outcome.finals]
    assert (folder / "final.json").stat().st_mtime_ns == final
    assert len(runs_of(folder)[1]) == 6


def test_two_workers_train_and_count_every_row_once(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "two"
    assigned = {"resources.num_workers": 2}
    plan = plan_for(folder, scenes, assigned=assigned, baselines=False)
    outcome, _ = run(plan, folder)
    (trial,) = outcome.trials
    assert trial.status == "FINISHED"
    assert trial.metrics["evaluated_images"] == 13
    assert outcome.finals[0].scores[0]["evaluated_images"] == 11


def test_a_failing_trial_is_recorded_and_the_sweep_goes_on(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "failing"
    space = SPACE.format(key="method.lr", values="{choice: [1.0e+37]}")
    assigned = {k: v for k, v in SMALL.items() if k != "method.lr"}
    # Of a worker group; light trials that fail have a test of their own.
    assigned["resources.num_workers"] = 1
    nothing_else: dict[str, Any] = {"finalists": 0, "baselines": False}
    request = plan_for(folder, scenes, space=space, num_samples=2, **nothing_else).request
    plan = make_plan(request.model_copy(update={"assigned": assigned}))
    outcome, text = run(plan, folder)
    by_status = {t.status: t for t in outcome.trials}
    assert set(by_status) == {"FINISHED", "FAILED"}
    check_cost(folder, text)
    assert "NonFiniteLoss" in str(by_status["FAILED"].reason)
    _, children = runs_of(folder)
    assert sorted(c.info.status for c in children) == ["FAILED", "FINISHED"]


def test_asha_stops_weak_trials_and_optuna_draws_them(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "asha"
    space = SPACE.format(key="method.gamma", values="{uniform: [0.5, 2.0]}")
    plan = plan_for(
        folder,
        scenes,
        space=space,
        num_samples=3,
        search="optuna",
        scheduler="asha",
        max_concurrent=1,
        assigned={"train.epochs": 4},
        finalists=0,
        baselines=False,
    )
    outcome, _ = run(plan, folder)
    assert {t.status for t in outcome.trials} <= {"FINISHED", "STOPPED"}
    assert outcome.trials[0].sample == {}
    assert len({t.settings["method.gamma"] for t in outcome.trials}) == 3
    for trial in outcome.trials:
        assert (trial.status == "STOPPED") == (trial.metrics["epoch"] < 4)
    _, children = runs_of(folder)
    assert [c.info.status for c in children] == ["FINISHED"] * 3


def test_data_without_labels_is_segmented_without_scores(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "unlabelled"
    manifest = json.loads((scenes / "manifest.json").read_text())
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "shards").symlink_to(scenes / "shards")
    splits = {"train": {**manifest["splits"]["train"], "labelled": 0}}
    shards = [{**s, "labelled": 0} for s in manifest["shards"] if s["split"] == "train"]
    manifest |= {"classes": [], "palette": None, "splits": splits, "shards": shards}
    (bare / "manifest.json").write_text(json.dumps(manifest))
    plan = plan_for(folder, bare, assigned={"num_clusters": 4, "train.epochs": 1})
    outcome, text = run(plan, folder)
    assert "unsup_miou" not in outcome.trials[0].metrics
    assert outcome.trials[0].objective == "label_free.view_information"
    assert 0 <= (outcome.trials[0].score or -1) <= 1
    assert outcome.baselines == {}
    assert outcome.finals == []
    shown = folder / "trial_000" / "pictures" / "mosaic.png"
    assert shown.exists()
    assert f"Images as trial_000 segments them: {shown}" in text
    assert "unsup_miou -" not in text
    about = check_model(folder)
    assert (about.num_clusters, about.data_digest) == (4, plan.manifest.digest())
    assert about.scores is not None
    assert about.scores.floors == {}
    assert about.scores.values["label_free.view_information"] == outcome.trials[0].score
    assert not [name for name in about.scores.values if name.startswith("unsup_")]


def test_what_cannot_fit_is_refused_before_it_starts(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "greedy"
    plan = plan_for(folder, scenes, assigned={"resources.num_workers": 8})
    with pytest.raises(UserError, match="8 workers"):
        run(plan, folder)
    assert runs_of(folder)[0].info.status == "FAILED"


def test_when_time_is_up_trials_end_and_can_go_on(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "brief"
    # An epoch of two steps: on a busy machine, too, one has ended when the time is up.
    short = {"train.epochs": 100_000, "train.steps_per_epoch": 2}
    endless: dict[str, Any] = {"time_budget_s": 60.0, "assigned": short}
    plan = plan_for(folder, scenes, finalists=0, baselines=False, **endless)
    outcome, _ = run(plan, folder)
    (trial,) = outcome.trials
    assert (trial.status, trial.reason) == ("KILLED", "the time budget was used up")
    assert 0 < trial.metrics["epoch"] < 100_000
    assert trial.seconds > 0
    _, (child,) = runs_of(folder)
    assert child.info.status == "KILLED"
    assert child.data.tags["usseg.reason"] == trial.reason
    assert outcome.finals == []
    assert check_model(folder).num_clusters == int(trial.settings["num_clusters"])
