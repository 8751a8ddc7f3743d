"""Pictures of a report are as small as they must be, and no smaller."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.reported import (
    TEST_STAMP,
    Page,
)
from usseg_ray.report.gallery import embedded_picture


def coded(width: int, height: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("budget", [200_000, 12_000])
def test_a_picture_is_shrunk_until_it_fits(budget: int) -> None:
    picture = embedded_picture(coded(600, 300), "text", "caption", side=400, budget=budget)
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
    picture = embedded_picture(file.getvalue(), "text", "caption", side=400, budget=10**6)
    with Image.open(io.BytesIO(base64.b64decode(picture.source.partition(",")[2]))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), flat)


def test_pictures_lay_finalists_side_by_side(page: Page) -> None:
    images = page.all("img")
    # Three images that all trials show: each with its truth and both finalists; their clusters.
    assert len(images) == 3 * (2 + 2) + 2
    assert sum("in each of its clusters" in image["alt"] for image in images) == 2
    assert all(image["alt"] for image in images)
    text = "".join(page.text)
    assert "image 0: " + TEST_STAMP in text
    assert "stego trial_003, mIoU of the image 33.5" in text
