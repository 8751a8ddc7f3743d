"""The dashboard in a real browser: what it shows before anybody clicks."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.browser import Browser, find_chromium
from tests.ledgers import opened
from usseg_ray.report.read import Store
from usseg_ray.tracking.store import COLUMNS, SWEEP_TAG, address

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.usefixtures("folder"),
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on this machine"),
]
PROTOCOL = "synthetic val, 112 px centre crop, one-to-one matching, textons"
TEST = "40.10 ± 1.25 (3)"
NAMES = ("001 acseg K=27 42.25", "000 hp K=27 31.50")
FLOORS = {"position": 21.3, "colour": 27.9, "image": 24.6, "kmeans": 33.1, "linear": 58.2}
BESIDE = "colour 27.9, image 24.6, position 21.3, kmeans 33.1, linear 58.2"
SEEN = """(() => {
    const cells = [...document.querySelectorAll('.ag-center-cols-viewport [role=gridcell]')];
    const text = document.createTreeWalker(
        cells.find((cell) => cell.innerText.startsWith('colour')), NodeFilter.SHOW_TEXT).nextNode();
    const floors = document.createRange();
    floors.setStart(text, 0);
    floors.setEnd(text, text.data.indexOf(', kmeans'));
    const grid = document.querySelector('.ag-center-cols-viewport').getBoundingClientRect();
    return floors.getBoundingClientRect().right <= grid.right;
})()"""
"""Whether the floors, which are the first in their column, end before the table does."""

INTO_VIEW = """(() => {
    const holds = [...document.querySelectorAll('p, span, a, td')].find(
        (one) => one.innerText.includes(WORDS));
    holds.scrollIntoView({block: 'center'});
    const {top, bottom} = holds.getBoundingClientRect();
    return 0 <= top && bottom <= innerHeight;
})()"""
"""Scrolls to the paragraph or cell that holds some words; whether it is on the screen then."""

ANSWER = "acseg, K = 27: 40.1 ± 1.2 mIoU on test; hp is within noise: 5 seeds would tell."
DRAWN_S = 60


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(str(find_chromium()), tmp_path_factory.mktemp("profile")) as found:
        yield found


def shown(browser: Browser, address: str, words: str, picture: Path) -> str:
    """Returns the page as a browser has drawn it, on the screen of a small laptop, and pictures it.

    Args:
        browser: Draws it.
        address: Of the page.
        words: Stand on it as soon as it has what was asked for, and are brought into view.
        picture: Where to write what is on the screen.
    """
    browser.open("about:blank", width=1366, height=768)  # a page of MLflow has its state in itself
    browser.open(address, width=1366, height=768)
    ends = time.monotonic() + DRAWN_S
    while words not in " ".join(str(browser.run("document.body.innerText")).split()):
        assert time.monotonic() < ends, browser.run("document.body.innerText")
        time.sleep(0.5)
    assert browser.run(INTO_VIEW.replace("WORDS", json.dumps(words))) is True
    picture.write_bytes(browser.picture())
    return str(browser.run("document.documentElement.outerHTML"))


def test_the_dashboard_opens_on_the_sweeps_own_trials(
    browser: Browser, server: str, tmp_path: Path
) -> None:
    with opened(server, "other") as ledger:
        ledger.open_trial("foreign", {"num_clusters": 5}, {"usseg.method": "picie"})
        ledger.close_trial("foreign", "FINISHED")
    with opened(server, "seen") as ledger:
        ledger.log_baselines(FLOORS)
        for trial, method, score in (("trial_000", "hp", 31.504), ("trial_001", "acseg", 42.254)):
            name = next(name for name in NAMES if method in name)
            tags = {"usseg.method": method, "usseg.protocol": PROTOCOL, "usseg.data": "scenes val"}
            ledger.open_trial(trial, {"num_clusters": 27}, tags)
            ledger.log(trial, {"unsup_miou": score, "loss": 0.5}, step=0)
            ledger.tag({"usseg.test": TEST, "mlflow.runName": name}, trial)
            ledger.open_final(trial, 3, {}, {"usseg.method": "of a seed"})
            ledger.close_trial(trial, "FINISHED")
    page = shown(browser, ledger.dashboard()[1], NAMES[0], tmp_path / "dashboard.png")
    columns = set(re.findall(r'role="columnheader"[^>]*?col-id="([^"]+)"', page)) or set(
        re.findall(r'col-id="([^"]+)"', page)
    )
    # What is beyond the screen's edge is not drawn.
    assert set(list(COLUMNS)[:3]) <= columns
    for text in (*NAMES, "scenes val", TEST, BESIDE):
        assert f">{text}<" in page, text
    assert browser.run(SEEN) is True
    best, other = (page.index(f">{name}<") for name in NAMES)
    assert best < other, "the best one is not the first"
    for foreign in ("seen", "picie", "of a seed"):
        assert f">{foreign}<" not in page


def test_a_sweeps_own_run_is_described_by_its_answer(
    browser: Browser, server: str, tmp_path: Path
) -> None:
    with opened(server, "answered") as ledger:
        ledger.tag({"usseg.answer": ANSWER, "mlflow.note.content": ANSWER})
    store = Store(server, "usseg")
    (sweep,) = store.sweeps(["answered"])
    page = shown(browser, run_page(server, sweep.parent.id), ANSWER, tmp_path / "run.png")
    assert ANSWER in " ".join(page.split())


@pytest.mark.skipif("USSEG_PICTURES_OF" not in os.environ, reason="takes pictures for the docs")
def test_pictures_of_a_real_sweep(browser: Browser) -> None:
    uri, folder = os.environ["USSEG_PICTURES_OF"], Path(os.environ["USSEG_PICTURES"])
    (sweep,) = Store(uri, "usseg_ray").sweeps([os.environ["USSEG_PICTURED"]])
    experiment = MlflowClient(uri).get_run(sweep.parent.id).info.experiment_id
    _, view = address(uri, experiment, sweep.parent.tags[SWEEP_TAG])
    first = sweep.trials[0].tags["mlflow.runName"]
    assert first in shown(browser, view, first, folder / "dashboard.png")
    answer, *_ = sweep.answer
    page = run_page(uri, sweep.parent.id)
    assert shown(browser, page, answer[:60], folder / "dashboard_answer.png")


def run_page(uri: str, run: str) -> str:
    """Returns the address of a run's own page on a server."""
    experiment = MlflowClient(uri).get_run(run).info.experiment_id
    return f"{uri}/#/experiments/{experiment}/runs/{run}"
