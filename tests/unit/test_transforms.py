import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional  # type: ignore[import-untyped]
from torchvision.transforms.functional import InterpolationMode  # type: ignore[import-untyped]

from usseg_ray.data.transforms import (
    View,
    evaluation_view,
    training_view,
    view_image,
    view_label,
)

sides = st.integers(1, 400)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def torchvision_frame(image: np.ndarray, size: int) -> np.ndarray:
    picture = functional.resize(Image.fromarray(image), [size], InterpolationMode.BILINEAR)
    return np.asarray(functional.center_crop(picture, [size, size]))


@settings(max_examples=60, deadline=None)
@given(height=st.integers(2, 90), width=st.integers(2, 90), size=st.integers(8, 64))
def test_evaluation_frame_is_torchvisions(height: int, width: int, size: int) -> None:
    image = noise(height, width)
    ours = view_image(image, evaluation_view(height, width, size=size)).transpose(1, 2, 0)
    difference = np.abs(ours.astype(int) - torchvision_frame(image, size))
    assert difference.max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "size"), [(360, 480, 320), (240, 320, 448), (213, 320, 224), (500, 333, 64)]
)
def test_evaluation_frame_at_real_sizes(height: int, width: int, size: int) -> None:
    image = noise(height, width)
    ours = view_image(image, evaluation_view(height, width, size=size)).transpose(1, 2, 0)
    assert np.abs(ours.astype(int) - torchvision_frame(image, size)).max() <= 1


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = noise(48, 48)
    assert np.array_equal(
        view_image(image, evaluation_view(48, 48, size=48)), image.transpose(2, 0, 1)
    )


@given(height=sides, width=sides, size=st.integers(8, 300))
def test_evaluation_frame_is_the_largest_centred_square(height: int, width: int, size: int) -> None:
    left, top, right, bottom = evaluation_view(height, width, size=size).box
    short = min(height, width)
    # The long side is rounded down to a pixel, so the frame may take a little more of it.
    pixel = short / (size - 1)
    assert right - left == pytest.approx(short, abs=1.01 * pixel)
    assert bottom - top == pytest.approx(short, abs=1.01 * pixel)
    assert left + right == pytest.approx(width, abs=1.01 * pixel)
    assert top + bottom == pytest.approx(height, abs=1.01 * pixel)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (3000, 2), (1, 8), (7, 1)])
@pytest.mark.parametrize("size", [8, 56])
def test_extreme_shapes(shape: tuple[int, int], size: int) -> None:
    height, width = shape
    label = np.arange(height * width).reshape(shape)
    drawn = training_view(np.random.default_rng(0), height, width, size=size, scale=0.5, flip=True)
    for view in (evaluation_view(height, width, size=size), drawn):
        assert view_image(noise(height, width), view).shape == (3, size, size)
        assert np.isin(view_label(label, view), label).all()


@settings(deadline=None)
@given(height=sides, width=sides, scale=st.floats(0.01, 1), seed=st.integers(0, 2**32))
def test_training_crop_area_and_shape(height: int, width: int, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    view = training_view(random, height, width, size=8, scale=scale, flip=False)
    left, top, right, bottom = view.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    wide, tall = right - left, bottom - top
    assert (wide % 1, tall % 1, left % 1, top % 1) == (0, 0, 0, 0)
    assert not view.flip
    # Half a pixel of rounding each way, then the image's own bounds.
    least, most = math.sqrt(scale * height * width * 3 / 4), math.sqrt(height * width * 4 / 3)
    for side, limit in ((wide, width), (tall, height)):
        assert min(limit, least - 0.5) <= side <= min(limit, max(1, most + 0.5))
    if wide < width and tall < height:
        slack = (wide + tall) / 2 + 1
        assert scale * height * width - slack <= wide * tall <= height * width + slack
        assert (wide - 0.5) / (tall + 0.5) <= 4 / 3 + 1e-9
        assert (wide + 0.5) / (tall - 0.5) >= 3 / 4 - 1e-9


def test_training_crops_fill_their_ranges() -> None:
    random = np.random.default_rng(0)
    views = [training_view(random, 300, 400, size=8, scale=0.2, flip=True) for _ in range(800)]
    boxes = np.array([view.box for view in views])
    wide, tall = (boxes[:, 2:] - boxes[:, :2]).T
    areas = wide * tall / 120_000
    assert areas.min() < 0.23
    assert areas.max() > 0.93
    assert np.mean([view.flip for view in views]) == pytest.approx(0.5, abs=0.06)
    inner = (wide < 400) & (tall < 300)
    assert np.log(wide / tall)[inner & (areas < 0.4)].mean() == pytest.approx(0, abs=0.04)
    # Crops touch every edge: no border is left out.
    assert boxes[:, :2].min() == 0
    assert (boxes[:, 2] == 400).any()
    assert (boxes[:, 3] == 300).any()


def test_training_crop_depends_on_its_generator_alone() -> None:
    first, again, other = (
        training_view(np.random.default_rng(s), 90, 80, size=8, scale=0.3, flip=True)
        for s in (1, 1, 2)
    )
    assert first == again != other


@given(
    box=st.tuples(st.floats(0, 20), st.floats(0, 20), st.floats(20.5, 41), st.floats(20.5, 37)),
    size=st.integers(1, 60),
    flip=st.booleans(),
)
def test_labels_are_their_sources_values(
    box: tuple[float, float, float, float], size: int, flip: bool
) -> None:
    label = np.random.default_rng(0).choice(np.array([0, 3, 7, 255]), (37, 41))
    shown = view_label(label, View(box, size, flip))
    assert shown.shape == (size, size)
    assert shown.dtype == label.dtype
    assert set(np.unique(shown)) <= {0, 3, 7, 255}


def test_a_label_pixel_is_the_one_under_its_centre() -> None:
    label = np.arange(64).reshape(8, 8)
    assert view_label(label, View((0.0, 0.0, 8.0, 8.0), 4)).tolist() == [
        [9, 11, 13, 15],
        [25, 27, 29, 31],
        [41, 43, 45, 47],
        [57, 59, 61, 63],
    ]
    doubled = view_label(label, View((2.0, 4.0, 6.0, 8.0), 8))
    assert np.array_equal(doubled, label[4:, 2:6].repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("flip", [False, True])
def test_images_and_labels_stay_aligned(flip: bool) -> None:
    label = np.zeros((60, 80), np.int32)
    label[20:40, 40:] = 1
    image = np.repeat(label[..., None] * 255, 3, 2).astype(np.uint8)
    view = View((10.5, 3.25, 70.5, 53.25), 40, flip)
    # Off the edges, where the filter mixes, a pixel's grey says its label.
    grey = view_image(image, view)[0]
    sure = (grey < 3) | (grey > 252)
    assert sure.mean() > 0.8
    assert np.array_equal(grey[sure] > 127, view_label(label, view)[sure] == 1)


def test_a_flip_mirrors_left_and_right() -> None:
    image, label = noise(9, 9), np.arange(81).reshape(9, 9)
    box = (1.0, 2.0, 7.0, 8.0)
    plain, mirrored = View(box, 12), View(box, 12, flip=True)
    assert np.array_equal(view_image(image, mirrored), view_image(image, plain)[:, :, ::-1])
    assert np.array_equal(view_label(label, mirrored), view_label(label, plain)[:, ::-1])
    assert view_image(image, mirrored).flags.c_contiguous
