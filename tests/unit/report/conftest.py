"""A store with two sweeps, and the page about the first of them."""

import re

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.ledgers import lay_store
from tests.reported import (
    Page,
    write_store,
)
from usseg_ray.report.page import as_html
from usseg_ray.report.read import Store
from usseg_ray.report.repeat import compose


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store with both sweeps."""
    folder = tmp_path_factory.mktemp("store")
    address = f"sqlite:///{folder}/mlflow.db"
    lay_store(folder / "mlflow.db")
    write_store(address, folder / "runs")
    return address


@pytest.fixture(scope="session")
def store(uri: str) -> Store:
    return Store(uri, "usseg_ray")


@pytest.fixture(scope="session")
def page(store: Store) -> Page:
    """The page on the first sweep."""
    return Page(as_html(compose(store, store.sweeps(["first"]), "")))


@pytest.fixture(scope="session")
def runs(uri: str) -> dict[str, Run]:
    """The first sweep's runs by name, read without the report's own code."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("usseg_ray")
    assert experiment is not None
    query = "tags.`usseg.sweep` = 'first-1a2b3c'"
    found = client.search_runs([experiment.experiment_id], query)
    return {str(run.info.run_name): run for run in found}


@pytest.fixture(scope="session")
def trials(runs: dict[str, Run]) -> dict[str, Run]:
    return {name: run for name, run in runs.items() if re.fullmatch(r"trial_\d+", name)}
