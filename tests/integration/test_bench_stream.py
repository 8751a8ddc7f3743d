"""Ray and a `DataLoader` are measured on the same rows; how fast is no matter of a test."""

import pytest

from tests import tiny
from usseg_ray.bench.stream import BATCH, LONGEST_GAP_S, streaming_measures
from usseg_ray.core.config import DataConfig

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_streaming_stands_beside_a_loader() -> None:
    files = [tiny.row("train", number, labelled=False).image for number in range(7)]
    rows = 8 * DataConfig().shuffle_window
    assert rows % BATCH == 0
    rate, full, training, memory = streaming_measures(files, rows, processes=1)
    assert rate.ratio is not None
    assert 0.01 < rate.ratio < 100
    assert memory.reference_value is not None
    assert 100 < memory.value < memory.reference_value
    assert full.reference_value is not None
    assert min(full.value, full.reference_value, training.value) > 0
    assert training.reference_value == LONGEST_GAP_S
