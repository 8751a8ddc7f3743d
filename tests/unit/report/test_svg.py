"""Charts draw what they are given, escape what people wrote, and have room for it."""

import math
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from PIL import ImageFont

from usseg_ray.report.svg import NUM_STYLES, Axis, Series, line_chart, parallel_axes, width_of

NAMES = "<b>&\"'"


def drawn(series: list[Series], **more: object) -> ElementTree.Element:
    found = line_chart("title", "words", series, "x", "y", key="one", **more)  # type: ignore[arg-type]
    return ElementTree.fromstring(found)


def spots(svg: ElementTree.Element, style: int) -> list[tuple[float, float]]:
    circles = svg.iterfind(f".//circle[@class='fill-{style}']")
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in circles]


def test_points_lie_where_their_numbers_are() -> None:
    svg = drawn([Series("a", ((1, 10), (2, 20), (4, 40)), 0)])
    # The last one is the key beside the name.
    (x1, y1), (x2, y2), (x4, y4), _ = spots(svg, 0)
    assert (x4 - x1) == pytest.approx(3 * (x2 - x1), abs=0.3)
    assert (y1 - y4) == pytest.approx(3 * (y1 - y2), abs=0.3)
    assert x1 < x2 < x4
    assert y1 > y2 > y4


def test_bars_reach_a_deviation_to_either_side() -> None:
    svg = drawn([Series("a", ((1, 10), (2, 20)), 0, (5.0, None))])
    line, bar = [path.attrib["d"] for path in svg.iterfind(".//path")]
    (_, low), (_, high) = [map(float, spot.split(",")) for spot in bar[1:].split("L")]
    (_, y1), (_, y2), *_ = spots(svg, 0)
    assert abs(low - high) == pytest.approx(abs(y1 - y2), abs=0.3)
    assert line.count("L") == 1


def test_series_differ_in_more_than_colour() -> None:
    looks = set()
    for style in range(NUM_STYLES):
        svg = drawn([Series("a", ((1, 1), (2, 2)), style)])
        path = svg.find(".//g/path")
        assert path is not None
        shape = next(e.tag for e in svg.iter() if e.attrib.get("class") == f"fill-{style}")
        looks.add((path.attrib["class"], path.attrib["stroke-dasharray"], shape))
    assert len(looks) == NUM_STYLES
    assert len({dash for _, dash, _ in looks}) == 4


def test_names_do_not_overlap() -> None:
    many = [Series(f"line {n}", ((1, 5), (2, 5 + n / 100)), n) for n in range(8)]
    svg = drawn(many, levels=[("floor", 5.0), ("other", 5.01)])
    names = {f"line {n}" for n in range(8)} | {"floor", "other"}
    heights = sorted(float(t.attrib["y"]) for t in svg.iter("text") if t.text in names)
    assert len(heights) == 10
    assert min(b - a for a, b in pairwise(heights)) >= 14
    assert heights[0] > 0
    assert heights[-1] < float(svg.attrib["height"])


@pytest.mark.parametrize("points", [((3.0, 7.0),), ((1.0, 0.0), (2.0, 0.0)), ()])
def test_one_point_or_none_is_a_chart_too(points: tuple[tuple[float, float], ...]) -> None:
    text = ElementTree.tostring(drawn([Series("a", points, 0)]), "unicode")
    assert not re.search(r"nan|inf", text)


def test_text_is_escaped_and_described() -> None:
    svg = ElementTree.fromstring(
        line_chart(NAMES, NAMES, [Series(NAMES, ((1, 1),), 0)], NAMES, NAMES, key="k")
    )
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-labelledby"].split() == ["k-title", "k-desc"]
    assert svg.findtext("title") == NAMES
    assert svg.findtext("desc") == NAMES
    assert not list(svg.iter("b"))


def heights(svg: ElementTree.Element) -> list[list[float]]:
    """Heights of the lines over the axes, the best line last."""
    return [
        [float(spot.split(",")[1]) for spot in path.attrib["d"][1:].split("L")]
        for path in svg.iterfind("path")
    ]


def test_axes_place_numbers_logarithms_and_words() -> None:
    axes = [
        Axis("number", (1.0, 2.0, 3.0)),
        Axis("rate", (0.001, 0.1, 10.0)),
        Axis("word", ("a", "b", "c")),
        Axis("same", (4.0, 4.0, 4.0)),
    ]
    svg = ElementTree.fromstring(parallel_axes("t", "d", axes, [NAMES, "b", "c"], key="k"))
    third, second, best = heights(svg)
    for low, middle, high in list(zip(best, second, third, strict=True))[:3]:
        assert middle == pytest.approx((low + high) / 2, abs=0.1)
        assert low > high
    assert best[3] == second[3] == third[3]
    assert NAMES in [text.text for text in svg.iter("text")]
    assert "10 (log)" in [text.text for text in svg.iter("text")]
    assert math.isfinite(sum(best))


def test_numbers_among_words_are_rounded_too() -> None:
    axes = [Axis("context", ("none", 0.44564995769369653)), Axis("score", (1.0, 2.0))]
    svg = ElementTree.fromstring(parallel_axes("t", "d", axes, ["a", "b"], key="k"))
    assert {"none", "0.4456"} <= {text.text for text in svg.iter("text")}


def test_many_axes_make_the_chart_wider() -> None:
    few, many = (
        ElementTree.fromstring(
            parallel_axes("t", "d", [Axis("a", (1.0, 2.0))] * count, ["x", "y"], key="k")
        )
        for count in (3, 10)
    )
    assert "class" not in few.attrib
    assert many.attrib["class"] == "wide"
    assert float(many.attrib["width"]) > 2 * float(few.attrib["width"]) - 300


def test_marks_of_the_axis_upwards_begin_within_the_drawing() -> None:
    series = [Series("loss", ((0.0, -0.001225), (1.0, -0.00125)), 0)]
    drawn = line_chart("t", "d", series, "epoch", "loss", key="k")
    marks = re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="end">([^<]+)<', drawn)
    assert any(mark.startswith("\N{MINUS SIGN}") for _, mark in marks)
    assert all(float(x) - 7.6 * len(mark) >= 0 for x, mark in marks)


@pytest.mark.parametrize(
    "text",
    ["kmeans", "kmeans trial_003", "linear (supervised)", "METHOD", "weight_negative", "−0.001225"],
)
def test_there_is_room_for_names_in_a_wide_font(text: str) -> None:
    font = Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    needed = ImageFont.truetype(str(font), 14).getlength(text)
    assert needed <= width_of(text) < 1.4 * needed
