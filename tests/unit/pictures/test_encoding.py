"""Pictures in a page fit their bytes, by whatever codes them shorter."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from usseg_ray.pictures.encoding import embedded


def shown(source: str) -> Image.Image:
    head, _, data = source.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("flat", [True, False])
def test_a_noisy_picture_is_shrunk_until_it_fits(flat: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    source, size = embedded(Image.fromarray(noise), side=160, budget=6000, flat=flat)
    assert len(base64.b64decode(source.partition(",")[2])) <= 6000
    with shown(source) as picture:
        assert picture.size == size
        assert picture.width < 160


def test_label_maps_lose_nothing() -> None:
    ids = np.kron(np.eye(2, dtype=np.uint8) * 200, np.ones((10, 10), np.uint8))
    flat = np.stack([ids, 255 - ids, ids], axis=2)
    source, size = embedded(Image.fromarray(flat), side=400, budget=10**6)
    with shown(source) as picture:
        assert size == (20, 20)
        assert np.array_equal(np.asarray(picture.convert("RGB")), flat)
