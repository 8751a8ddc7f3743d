"""The benchmarks that need Ray run and say what they measured; how fast is no matter of a test."""

import pytest
import ray
import torch

from usseg_ray.bench.extraction import extraction_on
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


@pytest.mark.usefixtures("ray_cluster")
def test_extraction_by_actors_stands_beside_the_peak_and_a_loop() -> None:
    # Shards of 16 rows, so that some come after the first.
    shard_bytes = 16 * 2 * 196 * 192
    flops, rows = extraction_on(torch.device("cpu"), "vit_tiny_patch16_224", 64, shard_bytes)
    assert (flops.unit, rows.unit) == ("TFLOP/s", "rows/s")
    # So few rows may come all at once: how fast is no matter of a test.
    assert min(flops.value, rows.value, flops.reference_value or 0, rows.reference_value or 0) > 0
    # A test's machine is held to no bar of a GPU.
    assert flops.limit is None
