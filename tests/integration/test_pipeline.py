"""Ray Data gives what the plan says: the same rows, in the same order, as reading here."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray.data
from ray.data._internal.execution.interfaces import PhysicalOperator

from tests import tiny
from usseg_ray.cluster.ray_stream import (
    REST_S,
    TASKS_AHEAD,
    Ahead,
    RayStream,
    Rest,
    ended,
    reading_group,
)
from usseg_ray.core.config import DataConfig, JitterConfig
from usseg_ray.core.views import Frame
from usseg_ray.data.manifest import Manifest, load_manifest, save_manifest, split_totals
from usseg_ray.data.reader import Reader
from usseg_ray.data.reading import Stream, stream_here
from usseg_ray.data.shards import write_split

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


def test_views_and_neighbours_come_through_alike(scenes: Path) -> None:
    table = (np.arange(37)[:, None] + np.arange(3)) % 37
    with reading_group(0.5, 1) as group:
        streams = (RayStream(group, 0.5), stream_here)
        pairs = [
            Reader(str(scenes), load_manifest(scenes), CONFIG, stream=s, pair=JitterConfig())
            for s in streams
        ]
        for here, there in zip(*(one.crops(1, 5) for one in pairs), strict=True):
            assert here.ids == there.ids
            for name in ("pixels", "first", "geometry"):
                assert getattr(here, name).equal(getattr(there, name))
        alone = [reader(scenes, s) for s in streams]
        for one in alone:
            one.neighbours = table
        ((first, second),) = zip(*(one.training(range(1), 3, 4) for one in alone), strict=True)
        for here, there in zip(first, second, strict=True):
            assert here.positive is not None
            assert there.positive is not None
            assert here.ids == there.ids
            assert here.positive.equal(there.positive)
            assert not here.positive.equal(here.pixels)


def test_every_labelled_row_reaches_exactly_one_worker(scenes: Path) -> None:
    with reading_group(0.5, 1) as group:
        seen = [
            name
            for rank in range(3)
            for batch in reader(scenes, RayStream(group, 0.5), rank, 3).labelled("val", 4)
            for name in batch.images.ids
        ]
    assert seen == [f"val_{i}" for i in range(13)]


def test_whole_images_come_through_in_their_own_shapes(tmp_path: Path) -> None:
    shapes = [(32, 44), (40, 32), (32, 32)]
    rows = [tiny.row("val", i, labelled=i != 4, shape=shapes[i % len(shapes)]) for i in range(11)]
    shards = tuple(write_split(tmp_path, "val", rows, 2))
    manifest = Manifest(
        name="oblong",
        classes=tiny.CLASSES,
        ignore_index=tiny.IGNORE,
        splits=split_totals(shards),
        shards=shards,
        source="a test",
    )
    save_manifest(manifest, tmp_path)
    with reading_group(0.5, 1) as group:
        here, there = (
            Reader(str(tmp_path), manifest, CONFIG, stream=s, frame=Frame(32, "whole"))
            for s in (stream_here, RayStream(group, 0.5))
        )
        for one, other in zip(here.labelled("val", 4), there.labelled("val", 4), strict=True):
            assert one.numbers == other.numbers
            assert one.images.pixels.equal(other.images.pixels)
            assert one.labels.equal(other.labels)
            assert one.labels.shape[1:] == shapes[one.numbers[0] % len(shapes)]


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


def test_no_task_outlives_an_iteration_that_stops(tmp_path: Path) -> None:
    def slow(row: dict[str, int]) -> dict[str, int]:
        time.sleep(0.3 * row["id"])
        (tmp_path / str(row["id"])).touch()
        return row

    with ray.data.DataContext.current(ray.data.DataContext()):
        dataset = ray.data.range(8, override_num_blocks=8).map(slow)
        with ended(dataset, dataset.iter_rows()) as rows:
            next(rows)
    written = sorted(tmp_path.iterdir())
    assert 0 < len(written) < 8
    time.sleep(1)
    assert sorted(tmp_path.iterdir()) == written


def test_a_stream_that_waits_for_training_rests(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    rest = Rest.on_execution_step

    def counted(self: Rest, executor: object) -> None:
        steps.append(executor)
        rest(self, executor)

    monkeypatch.setattr(Rest, "on_execution_step", counted)
    with reading_group(0.25, 1) as group:
        start = time.perf_counter()
        epochs = reader(scenes, RayStream(group, 0.25)).training(range(500), 3, 4)
        next(iter(next(epochs)))
        time.sleep(50 * REST_S)
        elapsed = time.perf_counter() - start
        del epochs
        # Ray's own threads end a moment after their stream; Ray shut down under them ends all.
        for thread in threading.enumerate():
            if thread.name == "iter_threaded":
                thread.join(10)
    assert 0 < len(steps) <= elapsed / REST_S + 1


def test_a_stream_is_so_many_tasks_ahead_of_its_reader_and_no_more(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, together = [0], [0]
    rule = Ahead.can_add_input

    def seen(self: Ahead, op: PhysicalOperator) -> bool:
        begun.append(op.metrics.num_tasks_submitted)
        together.append(op.num_active_tasks())
        return rule(self, op)

    monkeypatch.setattr(Ahead, "can_add_input", seen)
    with reading_group(2.0, 1) as group:
        epochs = reader(scenes, RayStream(group, 2.0)).training(range(100), 3, 4)
        next(iter(next(epochs)))
        time.sleep(2)
        before = max(begun)
        time.sleep(1)
        # What the reader's side has taken: a block in use, and those that its threads pass on.
        assert TASKS_AHEAD * 2 < max(begun) <= TASKS_AHEAD * 2 + 12
        assert max(begun) == before
        assert max(together) > 2
        del epochs
