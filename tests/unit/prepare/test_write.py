"""A set's folder is one command's while it is written; what Ray does is tested with Ray."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usseg_ray.core.errors import UserError
from usseg_ray.core.lock import LOCK_FILE, only_one
from usseg_ray.prepare.write import prepare


def test_a_folder_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "set"
    photos.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(photos / f"{name}.png")
    # As the other has it by now: a shard, and no manifest.
    (out / "shards").mkdir(parents=True)
    (out / "shards" / "train-00000-0123456789.parquet").write_bytes(b"of another")
    with (
        only_one(out / LOCK_FILE, "this set"),
        pytest.raises(UserError, match="this set is held by process"),
    ):
        prepare(photos, out)
    assert (out / "shards" / "train-00000-0123456789.parquet").read_bytes() == b"of another"
