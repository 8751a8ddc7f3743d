"""The whole report on a real MLflow store, and what it takes to repeat a sweep."""

import json
from dataclasses import replace

from mlflow.entities import Run

from tests.reported import (
    HOSTILE,
    Page,
)
from usseg_ray.report.content import Code
from usseg_ray.report.page import as_html
from usseg_ray.report.plain import report_json, report_markdown
from usseg_ray.report.read import Store
from usseg_ray.report.repeat import compose


def test_what_a_result_depends_on_is_the_stores(page: Page, runs: dict[str, Run]) -> None:
    found = {row[0]: row[1] for row in page.table("Versions and data: first").rows}
    assert found["data digest"] == "abc123"
    for name in ("version.torch", "machine.cpu", "machine.vector_instructions"):
        assert found[name.partition(".")[2]] == runs["first-1a2b3c"].data.tags[f"usseg.{name}"]


def test_the_answer_opens_the_report(store: Store) -> None:
    (sweep,) = store.sweeps(["first"])
    told = {"usseg.answer": "a < b: 5 seeds would tell", "usseg.answer_command": "tune --seeds 5"}
    ended = replace(sweep, parent=replace(sweep.parent, tags=sweep.parent.tags | told))
    found = compose(store, [ended], "")
    html, text = as_html(found), report_markdown(found)
    assert "<strong>a &lt; b: 5 seeds would tell</strong>" in html.partition("<nav")[0]
    assert "<pre><code>tune --seeds 5</code></pre>" in html.partition("<nav")[0]
    start = "**a &lt; b: 5 seeds would tell**\n\n```sh\ntune --seeds 5\n```\n"
    assert text.partition("\n\n")[2].startswith(start)
    answer = {"sentence": "a < b: 5 seeds would tell", "commands": ["tune --seeds 5"]}
    assert json.loads(report_json(found))["answers"] == [answer]


def test_answers_of_several_sweeps_have_their_names(store: Store) -> None:
    sweep, other = store.sweeps(["first", HOSTILE])
    told = sweep.parent.tags | {"usseg.answer": "it leads"}
    ended = replace(sweep, parent=replace(sweep.parent, tags=told))
    (answer,) = compose(store, [ended, other], "").answers
    assert answer == Code("first: it leads", ())


def test_a_section_without_anything_says_so(store: Store) -> None:
    text = report_markdown(compose(store, store.sweeps([HOSTILE]), ""))
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
