import errno
import os
from pathlib import Path

import pytest
from ray.exceptions import RayError, RayTaskError

from tests import tiny
from usseg_ray.cluster import ray_stream
from usseg_ray.cluster.ray_stream import PIECES_PER_TASK, PieceSource, users_mistakes
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Frame
from usseg_ray.data.plans import Piece
from usseg_ray.data.reading import Showing

SHOWING = Showing(Frame(tiny.SIDE))


def pieces(count: int, rows: int) -> list[Piece]:
    return [Piece("train-00000.parquet", group, 0, rows) for group in range(count)]


def test_a_task_takes_few_pieces() -> None:
    source = PieceSource("set", pieces(2 * PIECES_PER_TASK + 1, 5), SHOWING)
    assert source.num_tasks == len(source.get_read_tasks(99)) == 3
    assert source.estimate_inmemory_data_size() == (2 * PIECES_PER_TASK + 1) * 5 * tiny.SIDE**2 * 3


def test_and_no_more_than_a_block_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_stream, "BLOCK_BYTES", 5 * tiny.SIDE**2 * 3)
    assert PieceSource("set", pieces(4, 5), SHOWING).num_tasks == 4
    # One that is larger by itself is read all the same.
    assert PieceSource("set", pieces(2, 9), SHOWING).num_tasks == 2


def test_a_task_reads_its_rows(tmp_path: Path) -> None:
    manifest = tiny.write(tmp_path)
    shard = manifest.shards_of("train")[0]
    piece = Piece(shard.path, 0, 0, 2)
    (task,) = PieceSource(str(tmp_path), [piece], SHOWING).get_read_tasks(1)
    assert task.metadata.num_rows == 2
    (table,) = task()
    assert len(table["id"]) == 2
    assert next(PieceSource(str(tmp_path), [piece], SHOWING).tasks()).metadata == task.metadata


def test_a_users_mistake_is_found_in_what_ray_makes_of_it() -> None:
    def fails() -> None:
        raise RayTaskError("read", "", UserError("no such image")).as_instanceof_cause()

    with pytest.raises(UserError, match="no such image") as found, users_mistakes():
        fails()
    assert not isinstance(found.value, RayError)


def test_a_full_disk_of_a_task_keeps_its_number() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/mine")
    with pytest.raises(OSError, match="No space left") as found, users_mistakes():
        raise RayTaskError("final_scores", "", full).as_instanceof_cause()
    assert (found.value.errno, found.value.filename) == (errno.ENOSPC, "runs/mine")


def test_other_failures_stay_what_they_are() -> None:
    with pytest.raises(RayTaskError), users_mistakes():
        raise RayTaskError("read", "", ValueError("a bug")).as_instanceof_cause()
