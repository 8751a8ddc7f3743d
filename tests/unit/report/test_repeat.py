"""The whole report on a real MLflow store, and what it takes to repeat a sweep."""

from mlflow.entities import Run

from tests.reported import (
    HOSTILE,
    Page,
)
from usseg_ray.report.page import as_html
from usseg_ray.report.plain import as_markdown
from usseg_ray.report.read import Store
from usseg_ray.report.repeat import compose


def test_what_a_result_depends_on_is_the_stores(page: Page, runs: dict[str, Run]) -> None:
    found = {row[0]: row[1] for row in page.table("Versions and data: first").rows}
    assert found["data digest"] == "abc123"
    for name in ("version.torch", "machine.cpu", "machine.vector_instructions"):
        assert found[name.partition(".")[2]] == runs["first-1a2b3c"].data.tags[f"usseg.{name}"]


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
