"""The benchmarks that need Ray run and say what they measured; how fast is no matter of a test."""

import pytest
import ray

from usseg_ray.bench.io import io_bars
from usseg_ray.core.errors import UserError

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("ray_cluster")
def test_reading_stands_beside_decoding() -> None:
    found = list(io_bars(700))
    cores = ray.cluster_resources()["CPU"]
    assert [(one.what.split(",")[0], one.unit, one.reference.split(",")[0]) for one in found] == [
        ("decode 480x360 JPEG", "images/s", "Pillow"),
        ("prepare", "images/s", "decoding alone"),
        ("prepare", "images/s", "the bar"),
        ("stream", "rows/s", "in this process"),
        ("stream", "rows/s", "decoding alone"),
        ("stream", "s", "in this process"),
        ("stream", "s", "in this process"),
    ]
    assert all(0 < one.value < float("inf") for one in found)
    assert found[1].reference_value == pytest.approx(found[0].value * cores)
    assert [one.limit for one in found] == [None, None, 1.0, None, None, None, None]


@pytest.mark.usefixtures("ray_cluster")
def test_too_few_images_are_one_clear_line() -> None:
    with pytest.raises(UserError, match="4 images: too few to time preparing"):
        list(io_bars(4))
