"""`serve` and `demo` as users run them: asked, refused, flooded, seen in Chromium, and ended.

What `usseg_ray.serve.pool` does is done by Ray Serve alone.
"""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import ray
from PIL import Image
from ray import serve

from tests import tiny
from tests.browser import Browser, find_chromium
from tests.integration.test_interruptions import children_of, wait_until_gone
from tests.unit.models.conftest import kept
from usseg_ray.models.description import read_description, write_description
from usseg_ray.models.names import Names
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.serve.access import VARIABLE
from usseg_ray.serve.limits import ONGOING

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOKEN = "a5f2b8c1d9e7a4f60b"
SHOWN = {"Authorization": f"Bearer {TOKEN}"}
QUEUE = 6
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a name that a page must not take for its own."""
    folder = kept(tmp_path_factory.mktemp("kept"), "kmeans")
    about = read_description(folder)
    first, *rest = about.names.clusters
    names = Names((first.model_copy(update={"name": "<b>roof</b>"}), *rest))
    write_description(about.model_copy(update={"names": names}), folder)
    return folder


class Other:
    """Somebody else's application."""

    def __call__(self) -> int:
        return 7


@pytest.fixture(scope="module")
def other(ray_cluster: None) -> Iterator[str]:
    """An application on the cluster that the second server joins."""
    serve.start(proxy_location="Disabled")
    application = serve.deployment(Other).options(ray_actor_options={"num_cpus": 0}).bind()
    serve.run(application, name="other", route_prefix=None)
    yield "other"
    serve.shutdown()


class Server:
    """A command that runs.

    Args:
        folder: Where its output goes.
        cluster: Address of the cluster that it joins; one of its own if empty.
        arguments: The command's.

    Attributes:
        process: Its process.
    """

    def __init__(self, folder: Path, cluster: str, *arguments: str) -> None:
        self._log = folder / f"{arguments[0]}.log"
        with self._log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"usseg_ray.{arguments[0]}", *arguments[1:]],
                env=os.environ | {VARIABLE: TOKEN, "RAY_ADDRESS": cluster},
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def address(self) -> str:
        """Waits until it says where it is."""
        ends = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"at (http://\S+)", self.log)):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < ends, self.log
            time.sleep(0.2)
        return found[1]


@pytest.fixture(scope="module")
def servers(
    model: Path, other: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Server]]:
    """`serve` on a Ray of its own and `demo` on the tests', started together: both take a while."""
    folder = tmp_path_factory.mktemp("logs")
    common = ("--model", str(model), "--port", "0", "--device", "cpu")
    small = ("--max-upload", "4", "--max-pixels", "1", "--queue", str(QUEUE))
    joined = ray.get_runtime_context().gcs_address
    running = [
        Server(folder, "", "serve", *common, *small),
        Server(folder, joined, "demo", *common),
    ]
    yield running
    for server in running:
        if server.process.poll() is None:
            server.process.terminate()
    for server in running:
        server.process.wait(60)


@pytest.fixture(scope="module")
def client(servers: list[Server]) -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=servers[0].address(), timeout=120, limits=limits) as found:
        yield found


def post(client: httpx.Client, data: bytes, query: str = "") -> httpx.Response:
    return client.post(f"/predict{query}", files={"image": ("a.png", data)}, headers=SHOWN)


def test_images_are_answered_as_the_model_segments_them(client: httpx.Client, model: Path) -> None:
    pixels = tiny.picture(3, (64, 96))[0]
    found = post(client, tiny.png(pixels))
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    mask = Segmenter.open(model).segment(pixels).mask
    with Image.open(io.BytesIO(found.content)) as picture:
        assert np.mean(np.asarray(picture) == mask) > 0.999
    told = post(client, tiny.png(pixels), "?format=json").json()
    assert sum(one["share"] for one in told["segments"]) == pytest.approx(1, abs=1e-4)
    names = client.get("/names", headers=SHOWN).json()
    assert names["names"][0]["name"] == "<b>roof</b>"
    assert client.get("/health").json() == {"status": "ok"}


def test_strangers_and_what_is_too_large_or_broken_are_refused(client: httpx.Client) -> None:
    image = tiny.png(tiny.picture(3)[0])
    wrong = client.post("/predict", files={"image": image}, headers={"Authorization": "Bearer x"})
    statuses = {
        "no token": client.post("/predict", files={"image": image}).status_code,
        "wrong token": wrong.status_code,
        "bytes": post(client, b"x" * (5 * 2**20)).status_code,
        "pixels": post(client, tiny.png(np.zeros((1100, 1000, 3), np.uint8))).status_code,
        "text": post(client, b"no image").status_code,
        "half": post(client, image[: len(image) // 2]).status_code,
        "page": client.get("/", headers=SHOWN).status_code,
    }
    assert statuses == {
        "no token": 401,
        "wrong token": 401,
        "bytes": 413,
        "pixels": 422,
        "text": 422,
        "half": 422,
        "page": 404,
    }


def test_a_flood_is_answered_or_told_to_come_again(client: httpx.Client) -> None:
    image = tiny.png(tiny.picture(3, (960, 1000))[0])
    flood = 3 * (ONGOING + QUEUE)
    with ThreadPoolExecutor(flood) as threads:
        answers = list(threads.map(lambda _: post(client, image), range(flood)))
    statuses = [one.status_code for one in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= ONGOING
    busy = next(one for one in answers if one.status_code == 503)
    assert int(busy.headers["retry-after"]) > 0
    # As many at a time as may wait are never sent away.
    with ThreadPoolExecutor(QUEUE) as threads:
        answers = list(threads.map(lambda _: post(client, image), range(5 * QUEUE)))
    assert {one.status_code for one in answers} == {200}


def test_it_listens_on_loopback_and_keeps_its_token(
    client: httpx.Client, servers: list[Server]
) -> None:
    server = psutil.Process(servers[0].process.pid)
    family = [server, *server.children(recursive=True)]
    listening = {
        connection.laddr.ip
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert len(family) > 3
    for process in family:
        assert TOKEN not in " ".join(process.cmdline())
        if process != server:
            assert VARIABLE not in process.environ()
    assert TOKEN not in servers[0].log


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed")
    with Browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "a photo.png"
    path.write_bytes(tiny.png(tiny.picture(4, (192, 288))[0]))
    return path


def choose(browser: Browser, file: Path) -> None:
    """Chooses a file as a person does in the dialogue."""
    root = browser.ask("DOM.getDocument")["root"]["nodeId"]
    node = browser.ask("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.ask("DOM.setFileInputFiles", nodeId=node, files=[str(file)])


def until(told: Callable[[], object]) -> None:
    ends = time.monotonic() + 60
    while not told():
        assert time.monotonic() < ends
        time.sleep(0.1)


def rows(browser: Browser) -> list[list[str]]:
    lines = "[...document.getElementById('segments').rows]"
    found = browser.run(f"{lines}.map((row) => [...row.cells].map((one) => one.innerText.trim()))")
    assert isinstance(found, list)
    return found


def here(browser: Browser) -> str:
    return str(browser.run("document.getElementById('here').textContent"))


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BOX = "(({x, y, width, height}) => [x, y, width, height])(%s.getBoundingClientRect())"
OVERLAY = "document.getElementById('overlay')"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_shows_segments(
    servers: list[Server], browser: Browser, photograph: Path, model: Path, width: int
) -> None:
    address = servers[1].address()
    browser.open(f"{address}/", width=width)
    choose(browser, photograph)
    until(lambda: rows(browser))
    mask = Segmenter.open(model).segment(tiny.picture(4, (192, 288))[0]).mask
    assert len(rows(browser)) == len(np.unique(mask))
    assert "<b>roof</b>" in [name for name, _, _ in rows(browser)]
    assert browser.run(OVERFLOW) == 0
    # The pixels over the image have the colours of their segments.
    pixel = f"[...{OVERLAY}.getContext('2d').getImageData(288 / 2, 192 / 2, 1, 1).data]"
    colour = read_description(model).names.clusters[int(mask[96, 144])].colour
    assert browser.run(pixel) == [*bytes.fromhex(colour[1:]), 255]
    asked = [
        found["request"]["url"]
        for name, found in browser.events
        if name == "Network.requestWillBeSent"
    ]
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)
    told = [found for name, found in browser.events if name == "Runtime.exceptionThrown"]
    assert told == []


def test_a_pointer_a_finger_and_arrow_keys_read_it(
    servers: list[Server], browser: Browser, photograph: Path
) -> None:
    browser.open(f"{servers[1].address()}/", width=390)
    choose(browser, photograph)
    until(lambda: rows(browser))
    names = [name for name, _, _ in rows(browser)]
    left, top, width, height = browser.run(BOX % OVERLAY)
    centre = {"x": left + width / 2, "y": top + height / 2}
    before = here(browser)
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", **centre)
    until(lambda: here(browser) != before)
    name, _, rest = here(browser).rpartition(", confidence ")
    assert name in names
    assert re.fullmatch(r"[\d.]+ %", rest)
    browser.run("document.getElementById('here').textContent = ''")
    browser.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[centre])
    browser.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    until(lambda: "confidence" in here(browser))
    browser.run(f"{OVERLAY}.focus()")
    seen = set()
    for _ in range(40):
        browser.press("ArrowRight", 39)
        seen.add(here(browser))
    assert len(seen) > 1
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_the_keyboard_reaches_opacity_and_segments(
    servers: list[Server], browser: Browser, photograph: Path
) -> None:
    browser.open(f"{servers[1].address()}/", width=1280)
    choose(browser, photograph)
    until(lambda: rows(browser))
    reached = []
    for _ in range(4):
        browser.press("Tab", 9)
        reached.append(browser.run("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "opacity":
            browser.press("ArrowRight", 39)
    assert reached == ["file", "overlay", "opacity", "BUTTON"]
    assert browser.run(f"{OVERLAY}.style.opacity") == "0.56"
    covered = (
        f"{OVERLAY}.getContext('2d').getImageData(0, 0, 288, 192).data"
        ".filter((value, index) => index % 4 === 3 && value).length"
    )
    assert browser.run(covered) == 288 * 192
    browser.press("Enter", 13)
    assert 0 < browser.run(covered) < 288 * 192
    assert browser.run("document.activeElement.ariaPressed") == "true"


def test_what_is_no_image_is_said_and_a_dropped_one_is_shown(
    servers: list[Server], browser: Browser, photograph: Path, tmp_path: Path
) -> None:
    browser.open(f"{servers[1].address()}/", width=1280)
    (tmp_path / "text.jpg").write_text("no image")
    choose(browser, tmp_path / "text.jpg")
    status = "document.getElementById('status').textContent"
    until(lambda: "No image that can be used" in str(browser.run(status)))
    data = {"items": [], "files": [str(photograph)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.ask("Input.dispatchDragEvent", type=kind, x=200, y=300, data=data)
    until(lambda: rows(browser))
    assert browser.run(status) == ""


def test_it_leaves_others_on_its_cluster_alone(servers: list[Server], other: str) -> None:
    servers[1].address()
    running = set(serve.status().applications)
    assert len(running) == 2
    end(servers[1], signal.SIGINT)
    assert set(serve.status().applications) == {other}
    assert serve.get_app_handle(other).remote().result() == 7


def test_it_ends_and_leaves_nothing(servers: list[Server]) -> None:
    servers[0].address()
    started = children_of(servers[0].process)
    shared = {path for child in started for path in mapped(child)}
    assert shared
    end(servers[0], signal.SIGTERM)
    wait_until_gone(started)
    assert [path for path in shared if Path(path).exists()] == []


def end(server: Server, by: signal.Signals) -> None:
    server.process.send_signal(by)
    assert server.process.wait(60) == 0
    assert server.log.splitlines()[1:] == ["Ended."]


def mapped(process: psutil.Process) -> set[str]:
    """Lists the shared memory that a process has."""
    return {one.path for one in process.memory_maps() if one.path.startswith("/dev/shm/")}
