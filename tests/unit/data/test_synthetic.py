"""The built-in scenes: reproducible, complete, and not to be solved by place or colour alone."""

import io
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from usseg_ray.core.errors import UserError
from usseg_ray.data import synthetic
from usseg_ray.data.synthetic import CLASSES, PALETTE, SIZE, SPLITS, encode, scene

Bytes = NDArray[np.uint8]
CELL = 24
QUARTERS = [89.2, 97.8, 101.2, 107.5, 118.8, 128.6, 100.3, 98.9, 74.7, 98.1, 71.8, 74.2]
"""Mean colours of the four quarters of scene (0, train, 0): what a change of pixels moves."""


_drawn = cache(scene)


def _scenes(count: int, split: str = "train") -> Iterator[tuple[Bytes, Bytes]]:
    return (_drawn(0, split, index) for index in range(count))


def _cell_means(image: Bytes) -> NDArray[np.float64]:
    cells = image.reshape(SIZE // CELL, CELL, SIZE // CELL, CELL, 3).mean((1, 3))
    return np.asarray(cells.reshape(-1, 3))


def test_same_arguments_give_the_same_bytes_whatever_came_before() -> None:
    first = scene(3, "val", 7)
    synthetic._world.cache_clear()
    for index in (8, 0):
        scene(2, "train", index)
    again = scene(3, "val", 7)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    assert encode(*first) == encode(*again)


@pytest.mark.parametrize("other", [(1, "train", 0), (0, "val", 0), (0, "train", 1)])
def test_seed_split_and_index_each_change_the_scene(other: tuple[int, str, int]) -> None:
    image, label = scene(0, "train", 0)
    other_image, other_label = scene(*other)
    assert (image != other_image).mean() > 0.5
    assert (label != other_label).mean() > 0.3


def test_pixels_belong_to_the_version() -> None:
    image, label = scene(0, "train", 0)
    quarters = image.reshape(2, SIZE // 2, 2, SIZE // 2, 3).mean((1, 3)).ravel()
    assert synthetic.VERSION == 1
    np.testing.assert_allclose(quarters, QUARTERS, atol=0.5)
    assert {CLASSES[k] for k in np.unique(label)} == {"water", "sand", "gravel"}


def test_scenes_have_the_stated_form() -> None:
    for image, label in _scenes(20):
        assert image.shape == (SIZE, SIZE, 3)
        assert label.shape == (SIZE, SIZE)
        assert image.dtype == label.dtype == np.uint8
        assert label.max() < len(CLASSES)
        assert 2 <= len(np.unique(label)) <= 6


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_class_covers_a_fair_share_of_a_split(split: str) -> None:
    labels = np.stack([label for _, label in _scenes(SPLITS[split], split=split)])
    shares = np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size
    assert shares.min() > 0.03
    assert shares.max() < 0.25


def test_classes_have_distinct_names_and_colours() -> None:
    colours = np.array(PALETTE, np.float64)
    gaps = np.linalg.norm(colours[:, None] - colours, axis=-1) + 1e3 * np.eye(len(colours))
    assert len(set(CLASSES)) == len(PALETTE) >= 8
    assert gaps.min() > 50


def test_position_says_little_about_the_class() -> None:
    labels = np.stack([label[CELL // 2 :: CELL, CELL // 2 :: CELL] for _, label in _scenes(120)])
    places = labels.reshape(len(labels), -1)
    joint = np.stack([np.bincount(place, minlength=len(CLASSES)) for place in places.T])
    # Guessing each place's most frequent class: chance is 0.1, sampling noise adds some of it.
    assert joint.max(1).sum() / joint.sum() < 0.2


def test_colour_says_something_about_the_class_but_not_all() -> None:
    colours, classes = [], []
    for image, label in _scenes(120):
        colours.append(_cell_means(image))
        classes.append(label[CELL // 2 :: CELL, CELL // 2 :: CELL].ravel())
    x, y = np.concatenate(colours), np.concatenate(classes)
    fitted, held_out = x[: len(x) // 2], x[len(x) // 2 :]
    means = np.stack([fitted[y[: len(fitted)] == k].mean(0) for k in range(len(CLASSES))])
    nearest = np.linalg.norm(held_out[:, None] - means, axis=-1).argmin(1)
    assert 0.12 < (nearest == y[len(fitted) :]).mean() < 0.5


def test_light_varies_between_and_within_scenes() -> None:
    lights = np.stack([image.mean((1, 2)) for image, _ in _scenes(60)])
    assert lights.mean(1).std() > 10
    assert np.abs(lights[:, : SIZE // 2].mean(1) - lights[:, SIZE // 2 :].mean(1)).mean() > 10


def test_encoding_keeps_labels_exactly_and_images_closely() -> None:
    image, label = scene(0, "train", 5)
    jpeg, png = encode(image, label)
    with Image.open(io.BytesIO(jpeg)) as decoded:
        assert decoded.format == "JPEG"
        error = np.abs(np.asarray(decoded).astype(int) - image)
    with Image.open(io.BytesIO(png)) as decoded:
        assert decoded.format == "PNG"
        assert decoded.mode == "L"
        np.testing.assert_array_equal(np.asarray(decoded), label)
    assert error.mean() < 4


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(UserError, match=r"no split 'valid'; there are train, val, test"):
        scene(0, "valid", 0)
