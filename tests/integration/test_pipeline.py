"""Ray Data gives what the plan says: the same rows, in the same order, as reading here."""

from pathlib import Path

import numpy as np
import pytest

from usseg_ray.config import DataConfig
from usseg_ray.data.pipeline import RayStream, reading_group
from usseg_ray.data.reader import Reader
from usseg_ray.data.reading import Stream, stream_here
from usseg_ray.data.shards import load_manifest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

CONFIG = DataConfig(train_size=32, eval_size=32, shuffle_window=10)


def reader(root: Path, stream: Stream, rank: int = 0, world: int = 1) -> Reader:
    return Reader(
        str(root), load_manifest(root), CONFIG, seed=3, rank=rank, world=world, stream=stream
    )


def test_streams_the_rows_of_reading_here(scenes: Path) -> None:
    with reading_group(0.5, 1) as group:
        stream = RayStream(group, 0.5)
        for rank in range(2):
            mine, plain = (reader(scenes, s, rank, 2) for s in (stream, stream_here))
            for here, there in zip(plain.passes("train", 5), mine.passes("train", 5), strict=True):
                assert here.ids == there.ids
                assert here.pixels.equal(there.pixels)
            epochs = zip(plain.training(range(2), 3, 4), mine.training(range(2), 3, 4), strict=True)
            for a, b in epochs:
                for here, there in zip(a, b, strict=True):
                    assert here.ids == there.ids
                    assert here.pixels.equal(there.pixels)


def test_every_labelled_row_reaches_exactly_one_worker(scenes: Path) -> None:
    with reading_group(0.5, 1) as group:
        seen = [
            name
            for rank in range(3)
            for batch in reader(scenes, RayStream(group, 0.5), rank, 3).labelled("val", 4)
            for name in batch.images.ids
        ]
    assert seen == [f"val_{i}" for i in range(13)]


def test_an_abandoned_stream_leaves_its_cpus_to_the_next(scenes: Path) -> None:
    with reading_group(0.25, 1) as group:
        stream = RayStream(group, 0.25)
        started = reader(scenes, stream).training(range(50), 3, 4)
        next(iter(next(started)))
        rows = sum(len(batch.ids) for batch in reader(scenes, stream).passes("val", 4))
        assert rows == 13
        first = next(iter(next(reader(scenes, stream).training(range(1), 3, 4))))
        assert first.pixels.dtype.is_floating_point is False
        assert np.unique(first.pixels.numpy()).size > 1
