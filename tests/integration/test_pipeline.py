"""A stream gives what the plan says: the same rows, in the same order, as reading here."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from tests import tiny
from tests.conftest import PROJECT
from usseg_ray.cluster.ray_stream import TASKS_AHEAD, PieceSource, RayStream, reading_group
from usseg_ray.core.config import DataConfig, JitterConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Frame
from usseg_ray.data.manifest import Manifest, load_manifest, save_manifest, split_totals
from usseg_ray.data.plans import evaluation_plan
from usseg_ray.data.reader import Reader
from usseg_ray.data.reading import Showing, Stream, stream_here
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


ORDERS = {
    (1, 0): ("f8b1eee2cec425c6", "5eafb989fa5269f3", "f0a69de06a2d38ae"),
    (2, 0): ("f8b1eee2cec425c6", "13040c49b808f0fc", "dc89c7c73e120c62"),
    (2, 1): ("396112ee0a0bc509", "82b6c122cd62ca96", "56e9d197708a2e45"),
    (3, 0): ("f8b1eee2cec425c6", "21e4b08bba806c2e", "9ebc20c99e64df55"),
    (3, 1): ("396112ee0a0bc509", "700102a4cde0194d", "734e457ea2c94f92"),
    (3, 2): ("0b0068353ddaa5a5", "8f1ecd34271ce25a", "56e9d197708a2e45"),
}
"""Two epochs, a walk of joint batches and a labelled split, by world and rank, as release 0.1 gave
them through Ray Data."""


@pytest.mark.parametrize("world", [1, 2, 3])
def test_rows_come_in_the_order_that_they_always_had(scenes: Path, world: int) -> None:
    with reading_group(0.5, 1) as group:
        for rank in range(world):
            mine = reader(scenes, RayStream(group, 0.5), rank, world)
            epochs = mine.training(range(2), 4, 3)
            walks = (
                [name for epoch in epochs for batch in epoch for name in batch.ids],
                [name for batch in mine.crops(1, 5) for name in batch.ids],
                [name for batch in mine.labelled("val", 4) for name in batch.images.ids],
            )
            assert tuple(map(digest, walks)) == ORDERS[world, rank]


def digest(names: list[str]) -> str:
    return hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]


def test_ray_data_reads_a_plan_alike(scenes: Path) -> None:
    manifest, showing = load_manifest(scenes), Showing(Frame(32), labels=True)
    plan = evaluation_plan(manifest, "val", 0, 1)
    source = PieceSource(str(scenes), plan, showing)
    context = ray.data.DataContext(enable_progress_bars=False)
    context.execution_options.preserve_order = True
    with ray.data.DataContext.current(context):
        rows = ray.data.read_datasource(source, override_num_blocks=source.num_tasks)
    batches = iter(rows.iter_batches(batch_size=None, batch_format="numpy"))
    there = [name for batch in batches for name in batch["id"]]
    here = [name for block in stream_here(str(scenes), plan, showing) for name in block["id"]]
    assert there == here == [f"val_{i}" for i in range(13)]


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


def test_a_damaged_image_is_told_as_what_it_is(tmp_path: Path) -> None:
    rows = [tiny.row("val", 0), replace(tiny.row("val", 1), image=b"no image")]
    shards = tuple(write_split(tmp_path, "val", rows))
    plan = evaluation_plan(
        Manifest(
            name="damaged",
            classes=tiny.CLASSES,
            ignore_index=tiny.IGNORE,
            splits=split_totals(shards),
            shards=shards,
            source="a test",
        ),
        "val",
        0,
        1,
    )
    with reading_group(0.5, 1) as group, pytest.raises(UserError, match="'val-01' does not decode"):
        list(RayStream(group, 0.5)(str(tmp_path), plan, Showing(Frame(32))))


def slow(folder: Path, number: int) -> list[object]:
    time.sleep(0.3 * number)
    (folder / str(number)).touch()
    return []


def test_no_task_outlives_a_stream_that_is_closed(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = BlockMetadata(num_rows=1, size_bytes=1, input_files=None, exec_stats=None)
    real = PieceSource.tasks

    def tasks(self: PieceSource) -> Iterator[ReadTask]:
        yield next(real(self))
        for number in range(8):
            yield ReadTask(partial(slow, tmp_path, number), metadata)

    monkeypatch.setattr(PieceSource, "tasks", tasks)
    plan = evaluation_plan(load_manifest(scenes), "val", 0, 1)
    with reading_group(2.0, 1) as group:
        with closing(RayStream(group, 2.0)(str(scenes), plan, Showing(Frame(32)))) as blocks:
            next(blocks)
            while not (tmp_path / "1").exists():
                time.sleep(0.01)
        written = sorted(tmp_path.iterdir())
        time.sleep(3)
        assert sorted(tmp_path.iterdir()) == written


INTERRUPTED = """
import os, signal, sys, threading, time
import psutil
from pathlib import Path
from tests.integration.test_pipeline import reader
from usseg_ray.cluster.join import local_ray
from usseg_ray.cluster.ray_stream import RayStream, reading_group
signal.signal(signal.SIGINT, signal.default_int_handler)

def reading():
    names = (one.cmdline() for one in psutil.Process().children(recursive=True))
    return any("read_blocks" in " ".join(name) for name in names)

def interrupt():
    while not reading():
        time.sleep(0.01)
    print("READS", reading())
    os.kill(os.getpid(), signal.SIGINT)

with local_ray(), reading_group(1.0, 1) as group:
    epochs = reader(Path(sys.argv[1]), RayStream(group, 1.0)).training(range(10_000), 3, 4)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        for epoch in epochs:
            for batch in epoch:
                pass
        print("NEVER STOPPED")
    except KeyboardInterrupt:
        del epochs, epoch
    print("STILL READS", reading())
print("ENDED")
"""


def test_ctrl_c_ends_a_stream_and_its_tasks(scenes: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", INTERRUPTED, str(scenes)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    lines = ["READS True", "STILL READS False", "ENDED"]
    assert (done.returncode, done.stdout.split("\n")[:3]) == (0, lines), done.stderr
    assert "Traceback" not in done.stderr
    assert "core_worker" not in done.stderr


def test_a_stream_that_waits_for_training_does_nothing(scenes: Path) -> None:
    with reading_group(0.25, 1) as group:
        before = set(threading.enumerate())
        epochs = reader(scenes, RayStream(group, 0.25)).training(range(500), 3, 4)
        next(iter(next(epochs)))
        time.sleep(2)
        used = time.process_time()
        time.sleep(2)
        assert time.process_time() - used < 0.2
        assert set(threading.enumerate()) == before


def test_a_stream_is_so_many_tasks_ahead_of_its_reader_and_no_more(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[ReadTask] = []
    real = PieceSource.tasks

    def tasks(self: PieceSource) -> Iterator[ReadTask]:
        for task in real(self):
            begun.append(task)
            yield task

    monkeypatch.setattr(PieceSource, "tasks", tasks)
    plan = [*evaluation_plan(load_manifest(scenes), "train", 0, 1)] * 100

    def held(showing: Showing, taken: int) -> int:
        """Takes tasks' blocks and says how many more are begun."""
        begun.clear()
        with closing(RayStream(group, 2.0)(str(scenes), plan, showing)) as blocks:
            while taken:
                taken -= len(next(blocks)["id"]) > 0
            time.sleep(1)
            return len(begun)

    with reading_group(2.0, 1) as group:
        # The first task's blocks are being taken.
        assert held(Showing(Frame(32)), 1) == 1 + 2 * TASKS_AHEAD
        assert held(Showing(Frame(32)), 13) == 4 + 2 * TASKS_AHEAD
        assert held(Showing(Frame(32, "whole")), 1) == 1 + 2
