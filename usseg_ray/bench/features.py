"""How fast stored features are read into batches and written, beside plain copies of their bytes.

Off an image's path. The rows are those of a ViT-S/8 at 224 px: 784 tokens of 384 channels. What is
read was just written, so it comes from the page cache, as it does for all epochs but a first.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from usseg_ray.bench.inputs import scratch
from usseg_ray.bench.meter import Measure, least_seconds
from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.views import Frame
from usseg_ray.features.store.blocks import write_feature_shard
from usseg_ray.features.store.entry import FeatureEntry
from usseg_ray.features.store.recipe import SHARD_BYTES, EntryManifest, Recipe, row_bytes

DIM, GRID, BATCH = 384, 28, 32
BAR_MB_S = 2000.0
_MB = 1e6


def reading_bars(shards: int = 3, rounds: int = 4) -> Iterator[Measure]:
    """Times reading batches in file order and in random order, and writing a shard.

    Args:
        shards: How many of 128 MiB.
        rounds: How often each is done; the best counts, since other load can only slow one down.

    Yields:
        MB/s beside copies of as many bytes from memory, and beside writing them without Arrow.
    """
    entry = _manifest(shards)
    values = _random_rows(entry)
    with scratch() as folder:
        parts = np.split(values, shards)
        write, plainly = least_seconds(
            lambda: write_feature_shard(folder, "tokens", 0, _ids(entry), parts[0]),
            lambda: _write(folder / "plain", parts[0]),
            rounds=rounds,
        )
        reader = _written(folder, entry, values)
        ordered = np.arange(entry.rows // BATCH * BATCH).reshape(-1, BATCH)
        mixed = np.random.default_rng(1).permutation(ordered.size).reshape(-1, BATCH)
        read, picked, copied = least_seconds(
            *(_reading(reader, batches) for batches in (ordered, mixed)),
            _copying(values, mixed),
            rounds=rounds,
        )
        reader.close()
    megabytes = ordered.size * row_bytes(("tokens",), DIM, GRID) / _MB
    written = parts[0].nbytes / _MB
    what = f"{GRID * GRID}x{DIM} float16, batches of {BATCH}"
    memory, disk = "copied from memory", "hashed and written, flushed"
    rows: list[tuple[str, float, str, float, float | None]] = [
        (f"read in order, {what}", megabytes / read, memory, megabytes / copied, None),
        (f"read at random, {what}", megabytes / picked, memory, megabytes / copied, None),
        (f"read at random, {what}", megabytes / picked, "the bar", BAR_MB_S, 1.0),
        ("write a shard, flushed", written / write, disk, written / plainly, None),
    ]
    for name, value, reference, known, limit in rows:
        yield Measure("features", name, value, "MB/s", reference, known, limit)


@contextmanager
def random_entry(shards: int) -> Iterator[FeatureEntry]:
    """Opens an entry of random rows, which goes at the end of the block.

    Args:
        shards: How many of 128 MiB.
    """
    entry = _manifest(shards)
    with scratch() as folder, _written(folder, entry, _random_rows(entry)) as reader:
        yield reader


def _random_rows(entry: EntryManifest) -> np.ndarray:
    # All bits of the numbers below infinity.
    shape = (entry.rows, DIM, GRID, GRID)
    bits = np.random.default_rng(0).integers(0, 0x7C00, shape, np.uint16)
    return bits.view(np.float16)


def _ids(entry: EntryManifest) -> list[str]:
    return [f"{row:06d}" for row in range(entry.rows_per_shard)]


def _written(folder: Path, entry: EntryManifest, values: np.ndarray) -> FeatureEntry:
    for index, part in enumerate(np.split(values, entry.num_shards)):
        write_feature_shard(folder, "tokens", index, _ids(entry), part)
    return FeatureEntry(folder, entry, ("tokens",))


def _manifest(shards: int) -> EntryManifest:
    per_shard = SHARD_BYTES // row_bytes(("tokens",), DIM, GRID)
    backbone = BackboneConfig(name="vit_small_patch8_224.dino")
    recipe = Recipe(backbone=backbone, weights="", frame=Frame(8 * GRID), data="")
    return EntryManifest(
        key=recipe.key,
        says={},
        recipe=recipe,
        images=shards * per_shard,
        images_per_shard=per_shard,
        dim=DIM,
        grid=GRID,
    )


def _reading(reader: FeatureEntry, batches: np.ndarray) -> Callable[[], None]:
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
