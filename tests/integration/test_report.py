"""The report on a real MLflow store: every number is the store's, and no text becomes markup."""

import csv
import io
import json
import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from scipy.stats import spearmanr
from typer.testing import CliRunner

from tests.integration.ledgers import lay_store
from tests.reported import (
    HOSTILE,
    OTHER_STAMP,
    STAMP,
    TEST_STAMP,
    TRIALS,
    Page,
    per_class,
    write_store,
)
from usseg_ray.core.errors import UserError
from usseg_ray.report import __main__
from usseg_ray.report.page import as_html
from usseg_ray.report.plain import as_csv, as_json, as_markdown
from usseg_ray.report.read import Store
from usseg_ray.report.repeat import compose

pytestmark = [
    pytest.mark.ray,
    # MLflow maps its tables with a loader strategy that SQLAlchemy 2.1 has deprecated.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

MIOU = "unsupervised mIoU, %"
TRIALS_TABLE = f"Trials, ranked on the selection split: {STAMP}"
FINALS_TABLE = f"Finalists, scored on the test split: {TEST_STAMP}"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store with both sweeps."""
    folder = tmp_path_factory.mktemp("store")
    address = f"sqlite:///{folder}/mlflow.db"
    lay_store(folder / "mlflow.db")
    write_store(address, folder / "runs")
    return address


@pytest.fixture(scope="module")
def store(uri: str) -> Store:
    return Store(uri, "usseg_ray")


@pytest.fixture(scope="module")
def page(store: Store) -> Page:
    """The page on the first sweep."""
    return Page(as_html(compose(store, store.sweeps(["first"]), "")))


@pytest.fixture(scope="module")
def runs(uri: str) -> dict[str, Run]:
    """The first sweep's runs by name, read without the report's own code."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("usseg_ray")
    assert experiment is not None
    query = "tags.`usseg.sweep` = 'first-1a2b3c'"
    found = client.search_runs([experiment.experiment_id], query)
    return {str(run.info.run_name): run for run in found}


@pytest.fixture(scope="module")
def trials(runs: dict[str, Run]) -> dict[str, Run]:
    return {name: run for name, run in runs.items() if re.fullmatch(r"trial_\d+", name)}


def seeds(runs: dict[str, Run], trial: str) -> list[Run]:
    return [run for name, run in sorted(runs.items()) if name.startswith(f"{trial}-seed")]


def artifact(run: Run, name: str) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://")) / name


def test_the_trials_table_is_the_stores(page: Page, trials: dict[str, Run]) -> None:
    table = page.table(TRIALS_TABLE)
    heads = {
        "unsup_miou": MIOU,
        "unsup_acc": "accuracy, %",
        "boundary_f": "boundary F, %",
    }
    for name, run in trials.items():
        for metric, head in heads.items():
            assert table.numbers_of(name, head) == [run.data.metrics[metric]]
        assert table.numbers_of(name, "K") == [float(run.data.params["num_clusters"])]
        assert table.rows[table.row(name)][table.column("method")] == run.data.tags["usseg.method"]
    ranked = sorted(trials, key=lambda name: -trials[name].data.metrics["unsup_miou"])
    places = [table.numbers_of(name, "rank") for name in ranked]
    assert places == [[float(rank)] for rank in range(1, len(trials) + 1)]


def test_floors_stand_among_the_trials_without_a_rank(page: Page, runs: dict[str, Run]) -> None:
    table = page.table(TRIALS_TABLE)
    parent = runs["first-1a2b3c"].data.metrics
    kinds = {"position": "floor", "colour": "floor", "kmeans": "features", "linear": "supervised"}
    for name, kind in kinds.items():
        shown = f"{name} ({kind})"
        assert table.numbers_of(shown, MIOU) == [parent[f"baseline.{name}"]]
        assert table.numbers_of(shown, "rank") == []
        assert table.kinds[table.row(shown)] == kind
    scores = [numbers[table.column(MIOU)][0] for numbers in table.numbers]
    assert scores == sorted(scores, reverse=True)
    finals = page.table(FINALS_TABLE)
    assert finals.numbers_of("position (floor)", MIOU) == [parent["test.baseline.position"]]


def test_finalists_have_means_and_deviations_over_seeds(page: Page, runs: dict[str, Run]) -> None:
    table = page.table(FINALS_TABLE)
    heads = {
        "unsup_miou": MIOU,
        "unsup_acc": "accuracy, %",
        "linear_miou": "linear probe (supervised), %",
    }
    for trial in ("trial_000", "trial_003"):
        for metric, head in heads.items():
            values = [run.data.metrics[f"test.{metric}"] for run in seeds(runs, trial)]
            assert len(values) == 3
            assert table.numbers_of(trial, head) == pytest.approx([fmean(values), stdev(values)])
        assert table.numbers_of(trial, "seeds") == [3.0]
    assert table.numbers_of("trial_003", "rank") == [1.0]
    first = table.rows[table.row("trial_003")]
    assert first[table.column("remark")] == "the sweep's choice"
    behind = table.rows[table.row("trial_000")]
    assert table.numbers_of("trial_000", "behind the choice, points") == [
        runs["trial_000"].data.metrics["test.behind"]
    ]
    assert behind[table.column("95 % of a paired bootstrap")] == "-0.5 to 4.5"
    assert behind[table.column("beyond noise?")] == "no, noise"


def test_the_k_curve_averages_trials_and_further_seeds(
    page: Page, runs: dict[str, Run], trials: dict[str, Run]
) -> None:
    expected: dict[tuple[str, str], list[float]] = defaultdict(list)
    further = [run for name, run in runs.items() if re.search(r"-seed[12]$", name)]
    for run in (*trials.values(), *further):
        key = (run.data.tags["usseg.method"], run.data.params["num_clusters"])
        expected[key].append(run.data.metrics["unsup_miou"])
    table = page.table(f"{MIOU} over K")
    found = {
        (row[0], row[1]): numbers for row, numbers in zip(table.rows, table.numbers, strict=True)
    }
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        spread = [fmean(values), *([stdev(values)] if len(values) > 1 else [])]
        assert found[key][2] == pytest.approx(spread)
        assert found[key][3] == [float(len(values))]
    assert page.table("stability over K").rows


def test_learning_curves_are_the_histories(page: Page, uri: str, trials: dict[str, Run]) -> None:
    table = page.table(f"{MIOU}, over epochs")
    expected = {
        (name, float(metric.step), metric.value)
        for name, run in trials.items()
        for metric in MlflowClient(uri).get_metric_history(run.info.run_id, "unsup_miou")
    }
    found = {
        (row[0], numbers[2][0], numbers[3][0])
        for row, numbers in zip(table.rows, table.numbers, strict=True)
    }
    assert found == expected
    assert {t.caption.split()[2] for t in page.tables if t.caption.startswith("loss of")} == {
        "picie",
        "stego",
    }


def test_settings_are_those_that_trials_vary(page: Page, trials: dict[str, Run]) -> None:
    table = page.table("Trials of picie by what they varied")
    assert table.heads == ["trial", "num_clusters", "method.gamma", MIOU]
    for name in ("trial_000", "trial_002", "trial_004"):
        gamma = float(trials[name].data.params["method.gamma"])
        assert table.numbers_of(name, "method.gamma") == [gamma]


def test_classes_are_means_over_the_seeds_of_each_finalist(
    page: Page, runs: dict[str, Run]
) -> None:
    table = page.table(f"IoU of every class: {TEST_STAMP}")
    for trial, method in (("trial_003", "stego"), ("trial_000", "picie")):
        tables = [per_class(artifact(run, "per_class.json")) for run in seeds(runs, trial)]
        for rows in zip(*tables, strict=True):
            values = [float(str(row["iou"])) for row in rows]
            expected = [fmean(values), stdev(values)]
            found = table.numbers_of(str(rows[0]["class"]), f"{method} {trial}: IoU, %")
            assert found == pytest.approx(expected)


def test_trust_is_the_rank_correlation_of_the_trials(page: Page, trials: dict[str, Run]) -> None:
    table = page.table("Choosing without labels")
    values = {name: run.data.metrics for name, run in trials.items()}
    stability = [metrics["label_free.stability"] for metrics in values.values()]
    scores = [metrics["unsup_miou"] for metrics in values.values()]
    chosen = max(values, key=lambda name: values[name]["label_free.stability"])
    row = table.rows[table.row("stability")]
    assert row[table.column("trial that it chooses")] == chosen
    regret = max(scores) - values[chosen]["unsup_miou"]
    assert table.numbers_of("stability", "points below the best trial") == [regret]
    correlation = table.numbers_of("stability", "rank correlation with mIoU (Spearman)")
    assert correlation == pytest.approx([spearmanr(stability, scores).statistic])
    # A criterion that is the same for all trials has no ranks.
    assert table.numbers_of("entropy", "rank correlation with mIoU (Spearman)") == []


def test_costs_are_times_and_the_price_of_the_gpus(
    page: Page, uri: str, runs: dict[str, Run]
) -> None:
    table = page.table("Time of every run")
    names = [name for name in runs if name.startswith("trial_")]
    spent = {}
    for name in names:
        info = runs[name].info
        end = info.end_time
        if "-seed" in name:
            # Its run is closed when it is scored, which is not when it was trained.
            epochs = MlflowClient(uri).get_metric_history(info.run_id, "epoch")
            if not epochs:
                assert name.endswith("-seed0")
                assert table.numbers_of(name, "wall time, s") == []
                continue
            end = epochs[-1].timestamp
        spent[name] = (end - info.start_time) / 1000
        assert table.numbers_of(name, "wall time, s") == [spent[name]]
        assert table.numbers_of(name, "price") == pytest.approx([spent[name] / 3600 * 2 * 2.5])
    total = table.numbers_of(f"all {len(names)} runs", "wall time, s")
    assert total == pytest.approx([sum(spent.values())])
    assert table.numbers_of("trial_000", "of it scoring, s") == [9.0]
    assert table.numbers_of("trial_000", "training images/s") == [102.0]


def test_what_a_result_depends_on_is_the_stores(page: Page, runs: dict[str, Run]) -> None:
    found = {row[0]: row[1] for row in page.table("Versions and data: first").rows}
    assert found["data digest"] == "abc123"
    for name in ("version.torch", "machine.cpu", "machine.vector_instructions"):
        assert found[name.partition(".")[2]] == runs["first-1a2b3c"].data.tags[f"usseg.{name}"]


def test_published_numbers_are_marked_and_never_ranked(page: Page) -> None:
    # PiCIE's own numbers were measured as these, on val, without a refiner.
    table = page.table(TRIALS_TABLE)
    name = "picie, ResNet-18 FPN (published)"
    assert table.kinds[table.row(name)] == "published"
    assert table.numbers_of(name, MIOU) == [13.8]
    assert table.numbers_of(name, "rank") == []
    assert table.rows[table.row(name)][table.column("remark")] == "not ours: Cho et al., CVPR 2021"
    others = [t for t in page.tables if t.caption.startswith("Published, under another protocol")]
    assert {"stego-320" in t.caption for t in others} == {True}
    assert not any(row[0].startswith("trial") for t in others for row in t.rows)
    assert page.table(FINALS_TABLE).kinds.count("published") == 0


def test_sweeps_of_different_protocols_are_in_different_tables(store: Store) -> None:
    page = Page(as_html(compose(store, store.sweeps(["first", HOSTILE]), "")))
    captions = [t.caption for t in page.tables if t.caption.startswith("Trials, ranked")]
    assert captions == [TRIALS_TABLE, f"Trials, ranked on the selection split: {OTHER_STAMP}"]
    own, other = (page.table(caption) for caption in captions)
    assert len([row for row in own.rows if row[0].startswith("trial")]) == len(TRIALS)
    assert sorted(row[0] for row in other.rows) == ["trial_000", "trial_001"]
    # The failed trial scored more, and is not the first.
    assert other.numbers_of("trial_001", "rank") == [1.0]
    assert other.numbers_of("trial_000", "rank") == []
    assert "failed; collapsed" in other.rows[other.row("trial_000")][other.column("remark")]


def test_what_people_named_never_becomes_markup(store: Store) -> None:
    text = as_html(compose(store, store.sweeps([HOSTILE, "first"]), HOSTILE))
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not page.all("b", "iframe")
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert HOSTILE in "".join(page.text)


def test_the_page_fetches_nothing(page: Page, store: Store) -> None:
    text = as_html(compose(store, store.sweeps(["first"]), ""))
    (policy,) = (m for m in page.all("meta") if "http-equiv" in m)
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"@import|url\(|https?://|srcset=", text)
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert all(found["href"].startswith("#") for found in page.all("a"))
    assert len(text.encode()) < 5_000_000


def test_pictures_lay_finalists_side_by_side(page: Page) -> None:
    images = page.all("img")
    # Two images that all trials show: each with its truth and both finalists.
    assert len(images) == 2 * (2 + 2)
    assert all(image["alt"] for image in images)
    text = "".join(page.text)
    assert "image 0: " + TEST_STAMP in text
    assert "stego trial_003, mIoU of the image 33.5" in text


def test_a_reader_finds_the_way_without_eyes_or_mouse(page: Page) -> None:
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    for _, found in page.elements:
        assert set(found.get("aria-labelledby", "").split()) <= set(ids)
    assert {found["href"][1:] for found in page.all("a")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [tag for tag, _ in page.elements if tag in ("header", "nav", "main")] == [
        "header",
        "nav",
        "main",
    ]
    assert all("scope" in head for head in page.all("th"))
    assert all(table.caption for table in page.tables)
    assert all("aria-hidden" in svg or svg["role"] == "img" for svg in page.all("svg"))
    assert all(found["tabindex"] == "0" for found in page.all("div") if "role" in found)


def test_a_sweep_is_the_latest_or_named_by_key_or_folder(store: Store) -> None:
    assert [sweep.name for sweep in store.sweeps([])] == [HOSTILE]
    for name in ("first", "first-1a2b3c"):
        assert store.sweeps([name])[0].name == "first"
    with pytest.raises(UserError, match=r"no sweep 'absent'; the latest are .*first"):
        store.sweeps(["absent"])


def test_a_section_without_anything_says_so(store: Store) -> None:
    text = as_markdown(compose(store, store.sweeps([HOSTILE]), ""))
    html = as_html(compose(store, store.sweeps([HOSTILE]), ""))
    assert "## Leaderboard" in text
    for why in (
        "No trial was scored on an untouched test split.",
        "No finalist has a table of its classes in the store.",
        "No finalist has pictures in the store.",
        "Fewer than 4 trials have a criterion without labels",
        "Trials with scores do not differ in the number of clusters.",
    ):
        assert why in html


def test_other_formats_have_the_same_numbers(store: Store, trials: dict[str, Run]) -> None:
    found = compose(store, store.sweeps(["first"]), "")
    scores = {name: run.data.metrics["unsup_miou"] for name, run in trials.items()}
    rows = [r for r in csv.DictReader(io.StringIO(as_csv(found))) if r["table"] == TRIALS_TABLE]
    assert {r["name"]: float(r["unsup_miou"]) for r in rows if r["rank"]} == scores
    tables = json.loads(as_json(found))["sections"]["leaderboard"]
    (table,) = (one for one in tables if one["caption"] == TRIALS_TABLE)
    assert {r["name"]: r["unsup_miou"] for r in table["rows"] if "rank" in r} == scores
    (finals,) = (one for one in tables if one["caption"] == FINALS_TABLE)
    assert all("unsup_miou_deviation" in r for r in finals["rows"] if "seeds" in r)
    text = as_markdown(found)
    assert all(f"| {name} | " in text for name in scores)
    assert f"| {scores['trial_003']:.1f} | " in text


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return CliRunner()


def test_the_command_writes_a_page_of_the_sweep_asked_for(runner: CliRunner, uri: str) -> None:
    arguments = ["--tracking-uri", uri, "--sweep", "first", "--out", "new/page.html"]
    assert runner.invoke(__main__.app, arguments).exit_code == 0
    assert TRIALS_TABLE in [t.caption for t in Page(Path("new/page.html").read_text()).tables]
    table = runner.invoke(__main__.app, ["--tracking-uri", uri, "--format", "csv"])
    assert OTHER_STAMP in table.output
    assert [path.name for path in Path().iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "There is no MLflow store at"),
        (["a", "--sweep", "b"], "RUNS are ranked from their folders"),
        (["--protocol", "stego-320"], "are for RUNS"),
        (["--tracking-uri", "STORE", "--experiment", "none"], "has no experiment 'none'; it has"),
    ],
)
def test_mistakes_are_told(runner: CliRunner, uri: str, arguments: list[str], words: str) -> None:
    asked = [uri if argument == "STORE" else argument for argument in arguments]
    found = runner.invoke(__main__.app, asked)
    assert isinstance(found.exception, UserError)
    assert words in str(found.exception)
    assert not list(Path().iterdir())
