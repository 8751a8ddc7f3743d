"""Answers: a label map as `predict` writes it, and what JSON says of an image."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image

from usseg_ray.models.names import Name, Names
from usseg_ray.outputs.base import Strip
from usseg_ray.serve.answers import Wish, cluster_list, encoded, label_map_png, maps, summary

NAMES = Names(
    (
        Name(name="road", colour="#804080"),
        Name(name="dirt", colour="#112233", merge_into=0),
        Name(name="sky <b>", colour="#4682b4"),
        Name(name="car", colour="#778899", ignore=True),
    )
)


def strip(height: int = 6, width: int = 8) -> Strip:
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2] = 2
    mask[0, 0] = 255
    confidence = np.where(mask == 2, 0.75, 0.5).astype(np.float32)
    return Strip(mask, confidence, np.zeros((height, width, 3), np.uint8))


def test_a_label_map_is_indices_with_the_names_colours() -> None:
    with Image.open(io.BytesIO(encoded(strip(), NAMES, Wish()))) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), strip().mask)
        assert picture.convert("RGB").getpixel((7, 0)) == (0x46, 0x82, 0xB4)


def test_many_clusters_are_grey_of_two_bytes() -> None:
    many = Names.default(300)
    mask = np.array([[0, 299], [256, 65535]], np.uint16)
    found = Strip(mask, np.ones((2, 2), np.float32), np.zeros((2, 2, 3), np.uint8))
    with Image.open(io.BytesIO(label_map_png(found, many))) as picture:
        assert np.array_equal(np.asarray(picture), mask)


def test_a_summary_has_shares_and_confidence_and_no_merged_or_ignored_cluster() -> None:
    found = strip()
    tree = json.loads(encoded(found, NAMES, Wish("json")))
    assert tree == summary(found.mask, found.confidence, NAMES)
    assert [segment["name"] for segment in tree["segments"]] == ["road", "sky <b>"]
    road, sky = tree["segments"]
    assert road == {"id": 0, "name": "road", "colour": "#804080", "share": 0.5, "confidence": 0.5}
    assert (sky["id"], sky["confidence"]) == (2, 0.75)
    assert tree["ignored"] == pytest.approx(1 / 48, abs=1e-6)
    assert sum(one["share"] for one in tree["segments"]) + tree["ignored"] == pytest.approx(
        1, abs=1e-5
    )
    assert (tree["width"], tree["height"]) == (8, 6)
    assert tree["confidence"] == pytest.approx(found.confidence.mean())
    assert "maps" not in tree


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)


def test_maps_hold_every_pixel_of_a_small_image() -> None:
    found = strip()
    tree = json.loads(encoded(found, NAMES, Wish("json", maps=16)))["maps"]
    assert (tree["width"], tree["height"]) == (8, 6)
    assert np.array_equal(unpacked(tree["labels"], "<u2").reshape(6, 8), found.mask)
    sure = unpacked(tree["confidence"], "u1").reshape(6, 8) / 255
    assert np.allclose(sure, found.confidence, atol=1 / 255)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (401, 299), (16, 1000)])
def test_maps_of_a_large_image_are_made_smaller(height: int, width: int) -> None:
    # Every pixel has a label of its own, by its place.
    rows, columns = np.indices((height, width))
    mask = (rows // 16 * 100 + columns // 16).astype(np.uint16)
    tree = maps(mask, np.ones((height, width), np.float32), 100)
    small = unpacked(tree["labels"], "<u2").reshape(tree["height"], tree["width"])
    assert max(small.shape) == 100
    assert tree["height"] / tree["width"] == pytest.approx(height / width, rel=0.25)
    for y, x in [(0, 0), (tree["height"] - 1, tree["width"] - 1), (tree["height"] // 2, 30)]:
        place = ((y + 0.5) * height / tree["height"], (x + 0.5) * width / tree["width"])
        assert small[y, x] == mask[int(place[0]), int(place[1])]


def test_all_clusters_are_listed() -> None:
    assert cluster_list(NAMES)[1] == {
        "id": 1,
        "name": "dirt",
        "colour": "#112233",
        "merge_into": 0,
        "ignore": False,
    }
