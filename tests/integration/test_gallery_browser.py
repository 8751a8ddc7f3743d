"""A gallery in a real Chromium: names filled in, downloaded, given to the model, in its outputs."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import Browser, find_chromium
from tests.integration.commands import here
from tests.unit.models.conftest import kept
from usseg_ray.data import synthetic
from usseg_ray.models.description import read_description

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed"),
]

CLUSTERS = 6
NAMES = ("road", 'a "quoted" \\ name', "größer: [b] 林 🌲", "<script>alert(1)</script>", "- #no")
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, photographs and the page."""
    folder = tmp_path_factory.mktemp("home")
    kept(folder, "kmeans", num_clusters=CLUSTERS, data__eval_size=64, data__train_size=64)
    (folder / "photos").mkdir()
    for number in range(12):
        image, _ = synthetic.scene(3, "train", number)
        Image.fromarray(image).save(folder / "photos" / f"<b>{number}.png")
    done = here("look", "--model", "model", "--images", "photos", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(str(find_chromium()), tmp_path_factory.mktemp("profile")) as found:
        yield found


def fill(browser: Browser, cluster: int, **values: str) -> None:
    for key, value in values.items():
        browser.run(
            f"document.querySelector('[data-cluster=\"{cluster}\"] [name={key}]').value = "
            f"{json.dumps(value)}"
        )


def download(browser: Browser, folder: Path) -> Path:
    browser.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.run("document.getElementById('download').click()")
    end = time.monotonic() + 30
    while not (folder / "names.yaml").exists() and time.monotonic() < end:
        time.sleep(0.05)
    return folder / "names.yaml"


def test_five_names_go_from_the_page_into_outputs(
    browser: Browser, home: Path, tmp_path: Path
) -> None:
    before = read_description(home / "model").names
    browser.open(home / "gallery.html", width=1366)
    for cluster, name in enumerate(NAMES):
        fill(browser, cluster, name=name)
    fill(browser, 0, colour="#123456")
    fill(browser, 5, merge_into="0")
    browser.run("document.querySelector('[data-cluster=\"4\"] [name=ignore]').checked = true")
    names = download(browser, tmp_path)
    done = here("name", names, "--model", "model", folder=home)
    assert (done.returncode, done.stderr) == (0, "")
    given = read_description(home / "model").names
    assert tuple(one.name for one in given.clusters[:5]) == NAMES
    assert given.clusters[5].name == before.clusters[5].name
    assert [one.colour for one in given.clusters] == [
        "#123456",
        *(one.colour for one in before.clusters[1:]),
    ]
    assert [one.merge_into for one in given.clusters] == [None] * 5 + [0]
    assert [one.ignore for one in given.clusters] == [False] * 4 + [True, False]

    asked = ("--model", "model", "--images", "photos", "--save", "png,coco", "--out", "out")
    done = here("predict", *asked, folder=home)
    assert done.returncode == 0, done.stderr
    told = json.loads((home / "out" / "annotations.json").read_text("utf-8"))
    assert {one["name"] for one in told["categories"]} == set(NAMES[:4])

    # A second page begins with what was given.
    here("look", "--model", "model", "--images", "photos", folder=home)
    browser.open(home / "gallery.html", width=1366)
    values = "[...document.querySelectorAll('[name=name]')].map((one) => one.value)"
    assert browser.run(values) == [*NAMES, before.clusters[5].name]
    (tmp_path / "again").mkdir()
    assert download(browser, tmp_path / "again").read_text("utf-8") == names.read_text("utf-8")


@pytest.mark.parametrize("width", [1366, 390])
def test_it_fits_screens_and_loads_nothing(
    browser: Browser, home: Path, tmp_path: Path, width: int
) -> None:
    # With these variables it shows a real model, and keeps what is seen for the docs.
    page = Path(os.environ.get("USSEG_GALLERY", home / "gallery.html"))
    browser.open(page, width=width, height=844)
    assert browser.run(OVERFLOW) == 0
    wider = "[...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll'))"
    beyond = f"{wider}.filter((o) => o.getBoundingClientRect().right > innerWidth).length"
    assert browser.run(beyond) == 0
    asked = {
        found["request"]["url"].partition(":")[0]
        for name, found in browser.events
        if name == "Network.requestWillBeSent"
    }
    assert asked <= {"file", "data"}
    faults = {"Log.entryAdded", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"}
    assert [found for name, found in browser.events if name in faults] == []
    broken = "[...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert browser.run(broken) == 0
    assert browser.run("document.images.length") > CLUSTERS
    unnamed = "[...document.querySelectorAll('input')].filter((one) => !one.labels.length).length"
    assert browser.run(unnamed) == 0
    folder = Path(os.environ.get("USSEG_PICTURES", tmp_path))
    (folder / f"gallery_{width}.png").write_bytes(browser.picture())
