import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional  # type: ignore[import-untyped]
from torchvision.transforms.functional import InterpolationMode  # type: ignore[import-untyped]

from usseg_ray.core.views import Crop, CropPolicy, Filter, Frame
from usseg_ray.data import transforms
from usseg_ray.data.transforms import (
    fixed_crop,
    frame_image,
    frame_label,
    num_fixed_crops,
    training_view,
    view_image,
)

sides = st.integers(1, 400)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


MODES = {"bilinear": InterpolationMode.BILINEAR, "nearest": InterpolationMode.NEAREST}


def torchvision_frame(pixels: np.ndarray, size: int, mode: str) -> np.ndarray:
    picture = functional.resize(Image.fromarray(pixels), [size], MODES[mode])
    return np.asarray(functional.center_crop(picture, [size, size]))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@settings(max_examples=60, deadline=None)
@given(height=st.integers(2, 90), width=st.integers(2, 90), size=st.integers(8, 64))
def test_frames_are_torchvisions(mode: Filter, height: int, width: int, size: int) -> None:
    image = noise(height, width)
    ours = frame_image(image, Frame(size, filter=mode)).transpose(1, 2, 0)
    assert np.array_equal(ours, torchvision_frame(image, size, mode))
    label = image[..., 0]
    assert np.array_equal(
        frame_label(label, Frame(size, filter=mode)), torchvision_frame(label, size, "nearest")
    )


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(360, 480, 320), (240, 320, 448), (213, 320, 224), (500, 333, 64), (1024, 2048, 320)],
)
def test_frames_at_real_sizes(height: int, width: int, size: int) -> None:
    image = noise(height, width)
    label = np.arange(height * width, dtype=np.int32).reshape(height, width)
    for mode in ("bilinear", "nearest"):
        ours = frame_image(image, Frame(size, filter=mode)).transpose(1, 2, 0)
        assert np.array_equal(ours, torchvision_frame(image, size, mode))
    assert np.array_equal(
        frame_label(label, Frame(size)), torchvision_frame(label, size, "nearest")
    )


@pytest.mark.parametrize("crop", ["centre", "whole", "squash"])
@pytest.mark.parametrize("label_type", [np.uint8, np.int32, np.int64])
def test_an_image_of_the_right_size_is_not_touched(
    crop: Crop, label_type: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "_framed", None)
    image, frame = noise(48, 48), Frame(48, crop)
    framed, label = frame_image(image, frame), frame_label(image[..., 0].astype(label_type), frame)
    assert np.array_equal(framed, image.transpose(2, 0, 1))
    assert np.array_equal(label, image[..., 0])
    assert framed.dtype == np.uint8
    assert label.dtype == np.int32
    assert framed.flags.c_contiguous
    assert label.flags.c_contiguous


@settings(deadline=None)
@given(height=sides, width=sides, size=st.integers(8, 99))
def test_a_whole_frame_keeps_shape_and_labels(height: int, width: int, size: int) -> None:
    _, tall, wide = frame_image(noise(height, width), Frame(size, "whole")).shape
    assert min(tall, wide) == size
    assert tall / wide == pytest.approx(height / width, rel=1 / size)
    label = np.arange(height * width).reshape(height, width)
    assert np.array_equal(frame_label(label, Frame(size, "whole")), label)


def test_a_squashed_frame_is_the_whole_image() -> None:
    image = noise(20, 60)
    expected = Image.fromarray(image).resize((16, 16), Image.Resampling.NEAREST)
    squashed = frame_image(image, Frame(16, "squash", "nearest"))
    assert np.array_equal(squashed.transpose(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (3000, 2), (1, 8), (7, 1)])
@pytest.mark.parametrize("size", [8, 56])
def test_extreme_shapes(shape: tuple[int, int], size: int) -> None:
    height, width = shape
    label = np.arange(height * width).reshape(shape)
    drawn = training_view(np.random.default_rng(0), height, width, size=size, scale=0.5, flip=True)
    assert view_image(noise(height, width), drawn).shape == (3, size, size)
    assert frame_image(noise(height, width), Frame(size)).shape == (3, size, size)
    assert np.isin(frame_label(label, Frame(size)), label).all()


@pytest.mark.parametrize("policy", ["five", "ten"])
@pytest.mark.parametrize(("height", "width"), [(40, 61), (33, 20)])
@pytest.mark.parametrize("ratio", [0.5, 0.7])
def test_fixed_crops_are_torchvisions(
    policy: CropPolicy, height: int, width: int, ratio: float
) -> None:
    image = noise(height, width)
    cut = {"five": functional.five_crop, "ten": functional.ten_crop}[policy]
    expected = cut(Image.fromarray(image), [int(height * ratio), int(width * ratio)])
    ratios = (0.9, ratio)
    count = num_fixed_crops(policy, ratios)
    crops = [
        fixed_crop(image, number, policy=policy, ratios=ratios, jpeg=None)
        for number in range(count // 2, count)
    ]
    for crop, picture in zip(crops, expected, strict=True):
        assert np.array_equal(crop, np.asarray(picture))


def test_a_recoded_crop_is_a_jpeg_file_of_that_quality() -> None:
    smooth = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (64, 64, 3))
    image = np.ascontiguousarray(smooth)
    settings: dict[str, Any] = {"policy": "five", "ratios": (0.5,)}
    plain = fixed_crop(image, 4, jpeg=None, **settings)
    file = io.BytesIO()
    Image.fromarray(plain).save(file, "JPEG", quality=75)
    recoded = fixed_crop(image, 4, jpeg=75, **settings)
    assert np.array_equal(recoded, np.asarray(Image.open(file)))
    assert 0 < np.abs(recoded.astype(int) - plain).max() < 8


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
