"""The interface: what is asked in which form, what is refused in which words, and the page."""

import io
import json
import re
from collections.abc import Mapping

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, HTTPException
from PIL import Image

from tests import tiny
from tests.unit.serve.conftest import InProcess, asked
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.serve.app import PAGE, BusyError, GoneError, create_app, wanted
from usseg_ray.serve.limits import Limits

PIXELS = tiny.picture(5, (48, 64))[0]
LIMITS = Limits(upload=200_000, pixels=4096)


def made(inside: InProcess, segmenter: Segmenter, **options: object) -> FastAPI:
    return create_app(inside, segmenter.description, LIMITS, **options)  # type: ignore[arg-type]


@pytest.fixture
def inside(segmenter: Segmenter) -> InProcess:
    return InProcess(segmenter)


@pytest.fixture
def app(inside: InProcess, segmenter: Segmenter) -> FastAPI:
    return made(inside, segmenter)


def predict(
    app: FastAPI, data: bytes, query: str = "", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    files = {"image": ("a.png", data)}
    return asked(app, "POST", f"/predict{query}", files=files, headers=headers)


def test_an_image_becomes_a_label_map(app: FastAPI, segmenter: Segmenter) -> None:
    found = predict(app, tiny.png(PIXELS))
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(found.content)) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), segmenter.segment(PIXELS).mask)


def test_json_comes_by_the_header_or_the_query(app: FastAPI, segmenter: Segmenter) -> None:
    by_header = predict(app, tiny.png(PIXELS), headers={"Accept": "application/json"})
    by_query = predict(app, tiny.png(PIXELS), "?format=json", headers={"Accept": "image/png"})
    assert by_header.json() == by_query.json()
    mask = segmenter.segment(PIXELS).mask
    shares = {one["id"]: one["share"] for one in by_query.json()["segments"]}
    assert shares == pytest.approx({int(v): np.mean(mask == v) for v in np.unique(mask)}, abs=1e-5)
    assert predict(app, tiny.png(PIXELS), "?format=json&maps=32").json()["maps"]["width"] == 32


def test_what_cannot_be_asked_is_a_line(app: FastAPI, inside: InProcess) -> None:
    image = tiny.png(PIXELS)
    refused = {
        406: [predict(app, image, headers={"Accept": "text/html"})],
        422: [
            predict(app, image, "?format=gif"),
            predict(app, image, "?maps=0"),
            asked(app, "POST", "/predict"),
            asked(app, "POST", "/predict", files={"picture": ("a.png", image)}),
            asked(app, "POST", "/predict", data={"image": "text"}),
            asked(app, "POST", "/predict", json={"image": "x"}),
        ],
        404: [asked(app, "GET", "/"), asked(app, "GET", "/docs")],
        405: [asked(app, "GET", "/predict")],
    }
    for status, answers in refused.items():
        for answer in answers:
            assert answer.status_code == status, answer.text
            assert set(answer.json()) == {"error"}
            assert "\n" not in answer.json()["error"]
    assert inside.asked == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"no image", "not a JPEG"),
        (tiny.png(tiny.picture(1, (80, 64))[0]), "64x80 is above the limit"),
        (tiny.png(np.zeros((2, 140, 3), np.uint8)), "140x2 is a strip"),
        (tiny.png(PIXELS)[:-40], "No image that can be used"),
    ],
)
def test_what_is_no_image_is_422(app: FastAPI, data: bytes, words: str) -> None:
    found = predict(app, data)
    assert found.status_code == 422
    assert words in found.json()["error"]


def test_a_size_in_a_header_is_refused_before_a_worker_is_asked(
    app: FastAPI, inside: InProcess
) -> None:
    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")
    assert predict(app, stream.getvalue()).status_code == 422
    assert inside.asked == 0
    assert predict(app, tiny.png(PIXELS)).status_code == 200


def test_limits_and_token_stand_before_it(inside: InProcess, segmenter: Segmenter) -> None:
    app = made(inside, segmenter, token="5f2b8c1d9e7a4f60")
    shown = {"Authorization": "Bearer 5f2b8c1d9e7a4f60"}
    assert predict(app, tiny.png(PIXELS)).status_code == 401
    assert asked(app, "GET", "/names").status_code == 401
    assert asked(app, "GET", "/openapi.json").status_code == 401
    assert asked(app, "GET", "/health").status_code == 200
    assert predict(app, tiny.png(PIXELS), headers=shown).status_code == 200
    assert predict(app, b"x" * 300_000, headers=shown).status_code == 413


@pytest.mark.parametrize("fails", [BusyError(), GoneError()])
def test_who_cannot_be_answered_now_is_told_when_to_come_again(
    inside: InProcess, app: FastAPI, fails: Exception
) -> None:
    inside.fails = fails
    found = predict(app, tiny.png(PIXELS))
    assert found.status_code == 503
    assert int(found.headers["retry-after"]) > 0
    assert "try again" in found.json()["error"]
    assert asked(app, "GET", "/health").status_code == 503
    inside.fails = None
    assert asked(app, "GET", "/health").json() == {"status": "ok"}


def test_what_nobody_foresaw_is_a_line_too(inside: InProcess, app: FastAPI) -> None:
    inside.fails = ValueError("a secret of the inside")
    found = predict(app, tiny.png(PIXELS))
    assert found.status_code == 500
    assert found.json() == {"error": "The server failed (ValueError); its log has more."}


def test_names_say_what_the_model_is(app: FastAPI, segmenter: Segmenter) -> None:
    found = asked(app, "GET", "/names").json()
    assert (found["method"], found["num_clusters"], found["backbone"]) == ("kmeans", 3, "textons")
    names = [name.name for name in segmenter.names.clusters]
    assert [one["name"] for one in found["names"]] == names


def test_another_host_name_is_refused_where_hosts_are_given(
    inside: InProcess, segmenter: Segmenter
) -> None:
    app = made(inside, segmenter, hosts=("localhost",))
    assert asked(app, "GET", "/names").status_code == 200
    other = asked(app, "GET", "/names", headers={"Host": "rebound.example.org"})
    assert other.status_code == 400


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "png"),
        ("image/png", "png"),
        ("application/json", "json"),
        ("application/json, image/png", "json"),
        ("application/json;q=0.5, image/*", "png"),
        ("text/html, APPLICATION/JSON;q=0.2", "json"),
        ("image/png;q=0, application/*", "json"),
    ],
)
def test_an_accept_header_chooses(accept: str, form: str) -> None:
    assert wanted(accept) == form


@pytest.mark.parametrize("accept", ["text/html", "", "image/png;q=0", "image/png;q=x"])
def test_an_accept_header_may_accept_nothing_there_is(accept: str) -> None:
    with pytest.raises(HTTPException):
        wanted(accept)


def test_the_page_asks_for_nothing_from_elsewhere(inside: InProcess, segmenter: Segmenter) -> None:
    app = made(inside, segmenter, page=True)
    texts = {path: asked(app, "GET", path) for path in PAGE}
    for path, answer in texts.items():
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"https?://|//\w+\.", answer.text.replace("// ", "")), path
    linked = re.findall(r'(?:src|href)="([^"]+)"', texts["/"].text)
    assert set(linked) == {"data:,", "page.css", "page.js"}
    assert texts["/page.js"].headers["content-type"].startswith("text/javascript")


def test_the_interface_describes_itself(app: FastAPI) -> None:
    paths = json.loads(asked(app, "GET", "/openapi.json").text)["paths"]
    assert set(paths) == {"/predict", "/names", "/health"}
