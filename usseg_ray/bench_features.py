"""How fast stored features are read into batches and written, beside plain copies of their bytes.

Off an image's path. The rows are those of a ViT-S/8 at 224 px: 784 tokens of 384 channels. What is
read was just written, so it comes from the page cache, as it does for all epochs but a first.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from usseg_ray.bench_meter import Measure
from usseg_ray.config import BackboneConfig
from usseg_ray.data.transforms import Frame
from usseg_ray.feature_files import Entry, write_shard
from usseg_ray.feature_recipe import SHARD_BYTES, EntryManifest, Recipe, row_bytes

DIM, GRID, BATCH = 384, 28, 32
BAR_MB_S = 2000.0
_SHARDS = 3
_ROUNDS = 5
_MB = 1e6


def bench_features() -> list[Measure]:
    """Times reading batches in file order and in random order, and writing a shard.

    Returns:
        MB/s beside copies of as many bytes from memory, and beside writing them without Arrow.
    """
    entry = _manifest()
    with tempfile.TemporaryDirectory(prefix="usseg-bench-") as name:
        folder = Path(name)
        rows = np.random.default_rng(0).standard_normal((entry.rows, DIM, GRID, GRID), np.float32)
        values = rows.astype(np.float16)
        shards = np.split(values, _SHARDS)
        ids = [f"{row:06d}" for row in range(entry.rows_per_shard)]
        write, plainly = _rates(
            shards[0].nbytes,
            lambda: write_shard(folder, "tokens", 0, ids, shards[0]),
            lambda: _write(folder / "plain", shards[0]),
        )
        for index, shard in enumerate(shards):
            write_shard(folder, "tokens", index, ids, shard)
        reader = Entry(folder, entry, ("tokens",))
        ordered = np.arange(entry.rows // BATCH * BATCH).reshape(-1, BATCH)
        mixed = np.random.default_rng(1).permutation(ordered.size).reshape(-1, BATCH)
        read, picked, copied = _rates(
            ordered.size * row_bytes(("tokens",), DIM, GRID),
            *(_reading(reader, batches) for batches in (ordered, mixed)),
            _copying(values, mixed),
        )
        reader.close()
    what = f"{GRID * GRID}x{DIM} float16, batches of {BATCH}"
    memory, disk = "copied from memory", "hashed and written, flushed"
    return [
        Measure("features", f"read in order, {what}", read, "MB/s", memory, copied),
        Measure("features", f"read at random, {what}", picked, "MB/s", memory, copied),
        Measure("features", f"read at random, {what}", picked, "MB/s", "the bar", BAR_MB_S),
        Measure("features", "write a shard, flushed", write, "MB/s", disk, plainly),
    ]


def _manifest() -> EntryManifest:
    per_shard = SHARD_BYTES // row_bytes(("tokens",), DIM, GRID)
    backbone = BackboneConfig(name="vit_small_patch8_224.dino")
    recipe = Recipe(backbone=backbone, weights="", frame=Frame(8 * GRID), data="")
    return EntryManifest(
        key=recipe.key,
        says={},
        recipe=recipe,
        images=_SHARDS * per_shard,
        images_per_shard=per_shard,
        dim=DIM,
        grid=GRID,
    )


def _reading(reader: Entry, batches: np.ndarray) -> Callable[[], None]:
    out = torch.empty((BATCH, DIM, GRID, GRID), dtype=torch.float16)

    def read() -> None:
        for rows in batches:
            reader.read("tokens", rows, out)

    return read


def _copying(values: np.ndarray, batches: np.ndarray) -> Callable[[], None]:
    out = np.empty((BATCH, DIM, GRID, GRID), np.float16)

    def copy() -> None:
        for rows in batches:
            for place, row in enumerate(rows):
                out[place] = values[row]

    return copy


def _write(path: Path, values: np.ndarray) -> None:
    hashlib.sha256(values.data)
    with path.open("wb") as file:
        values.tofile(file)
        file.flush()
        os.fsync(file.fileno())


def _rates(num_bytes: int, *works: Callable[[], object]) -> list[float]:
    """Takes each work's best of a few rounds in turn, since other load can only slow one down."""
    best = [float("inf")] * len(works)
    for _ in range(_ROUNDS):
        for index, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[index] = min(best[index], time.perf_counter() - start)
    return [num_bytes / seconds / _MB for seconds in best]
