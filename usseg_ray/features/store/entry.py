"""Reads stored features into batches, from mapped files.

Last on the path of a stored feature. A batch is one copy for each run of rows that follow each
other, from the page cache where the file was read before; nothing is parsed and nothing converted
but to the type of the batch.
"""

import math
import mmap
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from usseg_ray.core.types import FeatureMap
from usseg_ray.features.store.blocks import Shard, list_shards
from usseg_ray.features.store.recipe import MASKS, EntryManifest, Part
from usseg_ray.ops.transfer import sending

MAX_OPEN = 512
"""Shards that a reader keeps mapped; each takes a file descriptor."""


class FeatureEntry:
    """Reads an entry's rows from its mapped files.

    Args:
        folder: The entry's.
        manifest: Its manifest.
        parts: What is read of it; every shard of these is there.
        held: Closed with the entry; keeps it from being removed.
    """

    def __init__(
        self, folder: Path, manifest: EntryManifest, parts: Iterable[Part], held: int | None = None
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self._shards: Mapping[Part, dict[int, Shard]] = {
            part: list_shards(folder, part) for part in parts
        }
        self._open: OrderedDict[Path, tuple[pa.Array, np.ndarray]] = OrderedDict()
        self._held = held

    def __enter__(self) -> "FeatureEntry":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the files, so that the entry may be removed."""
        self._open.clear()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """What can be read."""
        return tuple(self._shards)

    def rows(
        self,
        images: Integer[np.ndarray, "n"],
        crops: Integer[np.ndarray, "n"] | int = 0,
        draws: Integer[np.ndarray, "n"] | int = 0,
    ) -> Integer[np.ndarray, "n"]:
        """Numbers the rows of images.

        Args:
            images: (n,) their numbers in the split.
            crops: Which crop of each.
            draws: Which photometric draw of each.

        Returns:
            (n,) row numbers, for `read`.

        Raises:
            IndexError: There is no such crop or draw.
        """
        recipe = self.manifest.recipe
        num_crops, num_draws = recipe.showing.views, recipe.draws
        if not (_within(crops, num_crops) and _within(draws, num_draws)):
            raise IndexError(f"an image has {num_crops} crops and each {num_draws} draws")
        return (images * num_crops + crops) * num_draws + draws

    def read(
        self, part: Part, rows: Integer[np.ndarray, "n"], out: Tensor | None = None
    ) -> Float[Tensor, "n ..."]:
        """Copies rows into a batch; rows that follow each other are copied at once.

        Args:
            part: What to read.
            rows: (n,) row numbers, in any order.
            out: (n, ...) where to, contiguous, on the CPU; float32 is converted on the way.

        Returns:
            `out`, or a new (n, ...) float16 tensor.

        Raises:
            IndexError: A row does not exist.
        """
        rows = np.asarray(rows)
        if not _within(rows, self.manifest.rows):
            raise IndexError(f"entry {self.manifest.key} has {self.manifest.rows} rows")
        shape = (len(rows), *self.manifest.shape(part))
        out = torch.empty(shape, dtype=torch.float16) if out is None else out
        if out.shape != shape or not out.is_contiguous():
            raise ValueError(f"rows are {shape}, not {tuple(out.shape)}")
        target = out.numpy().reshape(len(rows), math.prod(shape[1:]))
        shards, places = np.divmod(rows, self.manifest.rows_per_shard)
        ends = np.flatnonzero((np.diff(rows) != 1) | (np.diff(shards) != 0)) + 1
        for start, stop in zip([0, *ends], [*ends, len(rows)], strict=True):
            if start < stop:
                first = places[start]
                values = self._mapped(part, int(shards[start]))[1]
                np.copyto(target[start:stop], values[first : first + stop - start])
        return out

    def ids(self, rows: Integer[np.ndarray, "n"]) -> tuple[str, ...]:
        """Names the images of rows."""
        shards, places = np.divmod(np.asarray(rows), self.manifest.rows_per_shard)
        part = self.parts[0]
        return tuple(
            self._mapped(part, shard)[0][place].as_py()
            for shard, place in zip(shards.tolist(), places.tolist(), strict=True)
        )

    def images(self, ids: Iterable[str]) -> Integer[np.ndarray, "n"]:
        """Finds images by name.

        Args:
            ids: Names, unique in the split.

        Returns:
            (n,) their numbers in the split.

        Raises:
            KeyError: The entry has no such image.
        """
        return np.array([self._numbers[name] for name in ids], dtype=np.int64)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        part, each = self.parts[0], self.manifest.rows_per_image
        shards = (self._mapped(part, shard)[0] for shard in range(self.manifest.num_shards))
        names = [name for ids in shards for name in ids[::each].to_pylist()]
        return {name: number for number, name in enumerate(names)}

    def feature_map(self, rows: Integer[np.ndarray, "n"], device: torch.device) -> FeatureMap:
        """Reads all parts of rows as a method is given them, float32 on a device.

        Args:
            rows: (n,) row numbers.
            device: Where to; half as many bytes go there as on from there.
        """
        return self.begin(rows, device)()

    def begin(
        self, rows: Integer[np.ndarray, "n"], device: torch.device
    ) -> Callable[[], FeatureMap]:
        """Reads all parts of rows and begins to copy them to a device.

        Args:
            rows: (n,) row numbers.
            device: Where to; a GPU goes on computing meanwhile.

        Returns:
            Gives them, as `feature_map` does.
        """

        def part(*names: Part) -> Callable[[], Tensor] | None:
            for name in names:
                if name in self._shards:
                    shape, pinned = self.manifest.shape(name), device.type == "cuda"
                    out = torch.empty(len(rows), *shape, dtype=torch.float16, pin_memory=pinned)
                    return sending(self.read(name, rows, out), device)
            return None

        tokens = part("tokens")
        if tokens is None:
            raise ValueError(f"entry {self.manifest.key} was opened without its tokens")
        saliency, local = part("saliency_cls", "saliency_minhead"), part("local")
        masks = part(*(name for name in self._shards if name.startswith(MASKS)))

        def give() -> FeatureMap:
            return FeatureMap(
                tokens().float(),
                None if saliency is None else saliency().float(),
                None if local is None else local().float(),
                masks=None if masks is None else masks().long(),
            )

        return give

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of the files that are read."""
        return sum(s.path.stat().st_size for part in self._shards.values() for s in part.values())

    def _mapped(self, part: Part, index: int) -> tuple[pa.Array, np.ndarray]:
        path = self._shards[part][index].path
        found = self._open.get(path)
        if found is None:
            found = self._open[path] = _map(path)
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(path)
        return found


def _map(path: Path) -> tuple[pa.Array, np.ndarray]:
    """Maps a shard: ids, and rows as an (n, width) float16 view of the file."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    batch = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))).get_batch(0)
    rows = batch.column("rows")
    values = rows.values.to_numpy(zero_copy_only=True)
    return batch.column("id"), values.reshape(len(rows), -1)


def _within(numbers: np.ndarray | int, count: int) -> bool:
    return bool(np.all((np.asarray(numbers) >= 0) & (np.asarray(numbers) < count)))
