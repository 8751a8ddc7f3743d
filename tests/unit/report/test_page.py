"""The style sheet can be read: colours have contrast in both schemes, and pictures fit."""

import base64
import io
import re
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from usseg_ray.report.content import Column, Spread, Table, TableRow
from usseg_ray.report.gallery import embedded
from usseg_ray.report.plain import written

STYLE = resources.files("usseg_ray.report").joinpath("page.css").read_text("utf-8")


def schemes() -> list[dict[str, str]]:
    """The colours of the light scheme, the dark one and paper."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks]
    assert len(found) == 3
    return [found[0], found[0] | found[1], found[0] | found[2]]


def luminance(colour: str) -> float:
    value = np.array(list(bytes.fromhex(colour[1:]))) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", schemes())
def test_text_and_lines_have_the_contrast_that_wcag_asks_for(scheme: dict[str, str]) -> None:
    for text, ground in [
        ("ink", "paper"),
        ("ink", "raised"),
        ("ink", "best"),
        ("ink", "beside"),
        ("quiet", "paper"),
        ("link", "paper"),
    ]:
        assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
    for line in ("focus", *(f"s{n}" for n in range(8))):
        assert contrast(scheme[line], scheme["paper"]) >= 3, line


def test_every_colour_of_a_series_is_there() -> None:
    for number in range(8):
        assert f".series-{number} {{ stroke: var(--s{number}); }}" in STYLE
        assert f".fill-{number} {{ fill: var(--s{number}); }}" in STYLE


def coded(width: int, height: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("budget", [200_000, 12_000])
def test_a_picture_is_shrunk_until_it_fits(budget: int) -> None:
    picture = embedded(coded(600, 300), "text", "caption", side=400, budget=budget)
    head, _, data = picture.source.partition(",")
    assert head == "data:image/webp;base64"
    decoded = base64.b64decode(data)
    assert len(decoded) <= budget
    with Image.open(io.BytesIO(decoded)) as image:
        assert image.size == picture.size
        assert image.width <= 400
        assert image.width == pytest.approx(2 * image.height, abs=2)


def test_a_small_picture_keeps_its_size_and_its_pixels() -> None:
    flat = np.zeros((20, 30, 3), np.uint8)
    flat[:, 15:] = 200
    file = io.BytesIO()
    Image.fromarray(flat).save(file, "PNG")
    picture = embedded(file.getvalue(), "text", "caption", side=400, budget=10**6)
    with Image.open(io.BytesIO(base64.b64decode(picture.source.partition(",")[2]))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), flat)


def test_means_are_written_with_their_deviation() -> None:
    spread = Spread.of([1.0, 2.0, 4.5])
    assert written(Column("a", "A"), spread) == "2.5 ± 1.8"
    assert written(Column("a", "A"), Spread.of([2.0])) == "2.0"
    assert Spread.of([]) is None
    assert written(Column("a", "A", None), 0.00012346) == "0.0001235"


def test_a_column_without_any_value_is_not_shown() -> None:
    columns = (Column("a", "A"), Column("b", "B"), Column("c", "C"))
    table = Table("caption", columns, (TableRow({"a": "x"}), TableRow({"a": "y", "c": 0.0})))
    assert [column.key for column in table.shown()] == ["a", "c"]
