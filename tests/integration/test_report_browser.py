"""The report in a real Chromium: on a phone, a desk, on paper, by keyboard, without a network."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.browser import Browser, find_chromium
from tests.ledgers import lay_store
from tests.reported import MIOU, write_store
from usseg_ray.report.page import as_html
from usseg_ray.report.read import Store, SweepRecord
from usseg_ray.report.repeat import compose

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed"),
]

TAB, ENTER, RIGHT = ("Tab", 9), ("Enter", 13), ("ArrowRight", 39)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
FOCUSED = "document.activeElement.getAttribute('href') || document.activeElement.className"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page on both sweeps of a store, people's own words in it."""
    folder = tmp_path_factory.mktemp("page")
    uri = f"sqlite:///{folder}/mlflow.db"
    lay_store(folder / "mlflow.db")
    write_store(uri, folder / "runs")
    store = Store(uri, "usseg_ray")
    path = folder / "report.html"
    path.write_text(as_html(compose(store, store.sweeps(["first", "other-9f"]), "")))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(str(find_chromium()), tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert browser.run(OVERFLOW) == 0
    wider = "[...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll'))"
    beyond = f"{wider}.filter((o) => o.getBoundingClientRect().right > innerWidth).length"
    skip = "document.querySelector('.skip').remove()"
    browser.run(skip)
    assert browser.run(beyond) == 0


def test_a_laptop_shows_the_leaderboard_whole(browser: Browser, page: Path) -> None:
    browser.open(page, width=1366)
    wide = "[...document.querySelectorAll('#leaderboard .scroll')]"
    assert browser.run(f"{wide}.length") > 3
    assert browser.run(f"{wide}.filter((o) => o.scrollWidth > o.clientWidth).length") == 0


def test_a_phone_shows_name_score_and_noise_first(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    heads = "[...document.querySelector('#leaderboard table').tHead.rows[0].cells].slice(0, 3)"
    assert browser.run(f"{heads}.map((one) => one.innerText.trim())") == [
        "trial",
        "unsupervised mIoU, %",
        "beyond noise?",
    ]
    assert browser.run(f"Math.max(...{heads}.map((o) => o.getBoundingClientRect().right))") <= 390


def test_a_phone_shows_every_table_and_drawing_whole(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    wide = "[...document.querySelectorAll('.scroll')]"
    assert browser.run(f"{wide}.length") > 15
    beyond = f"{wide}.filter((o) => o.scrollWidth > o.clientWidth)"
    assert browser.run(f"{beyond}.map((o) => o.innerText.slice(0, 80))") == []
    shown = "[...document.querySelectorAll('svg')].filter((o) => o.getClientRects().length)"
    scales = f"{shown}.map((o) => o.getBoundingClientRect().width / o.viewBox.baseVal.width)"
    # Letters of 14 pixels are 8 at least.
    assert browser.run(f"Math.min(...{scales})") > 8 / 14


def test_a_card_on_a_phone_begins_with_name_score_and_noise(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    rows = "[...document.querySelector('#leaderboard table').tBodies[0].rows]"
    seen = "[...row.cells].filter((o) => o.getClientRects().length).slice(0, 3)"
    said = "(o) => [o.dataset.label || '', o.getBoundingClientRect().top]"
    cards = browser.run(f"{rows}.map((row) => {seen}.map({said}))")
    finalist = next(card for card in cards if any(label == "beyond noise?" for label, _ in card))
    assert [label for label, _ in finalist] == ["", MIOU, "beyond noise?"]
    assert finalist[0][1] < finalist[1][1] == finalist[2][1]


@pytest.mark.parametrize("width", [390, 1366])
def test_no_word_of_a_drawing_is_cut(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    beyond = (
        "((o, box = o.getBBox(), view = o.ownerSVGElement.viewBox.baseVal) => "
        "box.x < 0 || box.x + box.width > view.width)"
    )
    words = "[...document.querySelectorAll('svg text')]"
    assert browser.run(f"{words}.length") > 50
    assert browser.run(f"{words}.filter((o) => {beyond}(o)).map((o) => o.textContent)") == []


@pytest.mark.parametrize(("width", "height"), [(1366, 900), (390, 844)])
def test_its_first_screen_has_the_answer(
    browser: Browser, page: Path, tmp_path: Path, width: int, height: int
) -> None:
    # With these variables it shows a real sweep, and keeps what is seen for the docs.
    if uri := os.environ.get("USSEG_PICTURES_OF"):
        store = Store(uri, "usseg_ray")
        found = store.sweeps(os.environ["USSEG_PICTURED"].split(","))
    else:
        store = Store(f"sqlite:///{page.parent}/mlflow.db", "usseg_ray")
        found = [told(store.sweeps(["first"])[0])]
    one = tmp_path / "report.html"
    one.write_text(as_html(compose(store, found, "")))
    browser.open(one, width=width, height=height)
    answer = "document.querySelector('.answer').getBoundingClientRect()"
    assert 0 < browser.run(f"{answer}.top") < browser.run(f"{answer}.bottom") < height
    folder = Path(os.environ.get("USSEG_PICTURES", tmp_path))
    (folder / f"report_{width}.png").write_bytes(browser.picture())
    assert (folder / f"report_{width}.png").stat().st_size > 10_000


def told(sweep: SweepRecord) -> SweepRecord:
    """A sweep that has ended with its answer."""
    said = {"usseg.answer": "stego, K = 5 leads", "usseg.answer_command": "tune --seeds 5"}
    return replace(sweep, parent=replace(sweep.parent, tags=sweep.parent.tags | said))


def test_it_fetches_nothing_and_breaks_none_of_its_rules(browser: Browser, page: Path) -> None:
    browser.open(page, width=375)
    asked = [
        found["request"]["url"]
        for name, found in browser.events
        if name == "Network.requestWillBeSent"
    ]
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    told = [
        found
        for name, found in browser.events
        if name in {"Log.entryAdded", "Runtime.exceptionThrown"}
    ]
    assert told == []
    broken = "[...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert browser.run(broken) == 0
    assert browser.run("document.images.length") > 0


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(
    browser: Browser, page: Path
) -> None:
    browser.open(page, width=700)  # on a phone no table is wider than the screen
    seen = []
    for _ in range(10):
        browser.press(*TAB)
        seen.append(browser.run(FOCUSED))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert browser.run(outline) != "none"
    links = re.findall(r'<li><a href="([^"]+)"', page.read_text())
    assert seen == ["#main", *links]
    browser.press(*TAB)
    assert browser.run(FOCUSED) == "scroll"
    for _ in range(4):
        browser.press(*RIGHT)
    scrolled = (
        "new Promise((done) => setTimeout(() => done(document.activeElement.scrollLeft), 500))"
    )
    found = browser.ask("Runtime.evaluate", expression=scrolled, awaitPromise=True)
    assert found["result"]["value"] > 0


def test_a_heading_sorts_its_table(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    table = "[...document.querySelectorAll('table')].find((t) => t.innerText.startsWith('Trials'))"
    names = f"[...({table}).tBodies[0].rows].map((row) => row.cells[0].innerText)"
    before = browser.run(names)
    browser.run(f"({table}).tHead.rows[0].cells[0].firstChild.focus()")
    browser.press(*ENTER)
    assert browser.run(names) == sorted(before, key=str.lower)
    assert browser.run(f"({table}).tHead.rows[0].cells[0].ariaSort") == "descending"


def test_a_screen_reader_is_told_names(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    named: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            name = str(node.get("name", {}).get("value", ""))
            named.setdefault(node["role"]["value"], []).append(name)
    assert {"banner", "navigation", "main", "region", "table", "image"} <= named.keys()
    for role in ("navigation", "region", "table", "image", "button", "link", "columnheader"):
        assert all(named[role]), role
    assert any(name.startswith("Trials, ranked") for name in named["table"])


def test_it_follows_the_scheme_and_prints_on_white(browser: Browser, page: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(page, width=1280, dark=True)
    assert browser.run(ground) == "rgb(22, 24, 29)"
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert browser.run(ground) == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    letter = 965  # pixels between the margins, of which A4 has more
    browser.open(page, width=letter)
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert browser.run(OVERFLOW) == 0
    browser.open(page, width=1280)
    assert browser.print().startswith(b"%PDF")


def test_without_scripts_the_page_is_whole(browser: Browser, page: Path) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page, width=375)
        nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    assert roles.count("table") >= 5
    assert "button" not in roles
