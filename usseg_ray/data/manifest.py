"""A prepared set's table of contents: its splits, their shards with hashes, and what labels mean.

It stands beside `shards`, whose rows it counts; every command reads it first.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from usseg_ray.core.config import Settings
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line, resolve, write_whole_at
from usseg_ray.core.sources import check_name
from usseg_ray.data.scaling import AS_THEY_ARE, Sight

Palette = tuple[tuple[int, int, int], ...]

FORMAT_VERSION: Literal[1] = 1

MANIFEST = "manifest.json"

AGAIN = "Prepare the set again with --overwrite."


class ShardInfo(Settings):
    """One shard as the manifest names it."""

    path: str = Field(description="Below the set's root.")
    split: str
    rows: int = Field(ge=1)
    labelled: int = Field(ge=0, description="Rows that have a label.")
    num_bytes: int = Field(ge=1)
    sha256: str
    row_groups: tuple[int, ...] = Field(description="Rows of each row group.")
    cut: float = Field(0.0, ge=0, lt=1, description="What centre squares leave out, mean share.")

    @field_validator("path")
    @classmethod
    def _below_the_root(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts or set(path) & set("\\:\0"):
            raise ValueError(f"{path!r} leads out of the set")
        return path


class SplitInfo(Settings):
    """Totals of a split."""

    rows: int = Field(ge=0)
    labelled: int = Field(ge=0)
    bad_images: int = Field(0, ge=0, description="Images that were left out.")
    bad_labels: int = Field(0, ge=0, description="Labels that were left out, their images kept.")
    origin: str = Field("", description="Which images of a published set these are.")
    expected: int | None = Field(None, ge=1, description="How many images it has there.")


class Manifest(Settings):
    """What a prepared set is and which shards it consists of."""

    format_version: Literal[1] = FORMAT_VERSION
    name: str
    classes: tuple[str, ...] = Field(description="Names by index; empty for a set without labels.")
    ignore_index: int = Field(description="Label value of pixels without a class.")
    palette: Palette | None = Field(None, description="RGB of each class.")
    things: tuple[str, ...] = Field((), description="Classes that are countable objects.")
    splits: dict[str, SplitInfo]
    shards: tuple[ShardInfo, ...]
    source: str = Field(description="Where the images came from.")
    sight: Sight = Field(AS_THEY_ARE, description="How numbers became the bytes of the shards.")
    fingerprint: str = Field("", description="Of the source's file names, sizes and times.")

    def digest(self) -> str:
        """Hashes what decides a result: classes and the bytes of every shard, not names or places.

        Returns:
            64 hexadecimal digits.
        """
        identity = [
            self.classes,
            self.ignore_index,
            self.palette,
            [(shard.split, shard.sha256) for shard in self.shards],
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def cut(self, split: str) -> float:
        """Says which share of an image its centre square leaves out, on the mean over a split.

        Of a set that was prepared before this was noted: 0.
        """
        shards = self.shards_of(split)
        rows = sum(shard.rows for shard in shards)
        return sum(shard.cut * shard.rows for shard in shards) / max(1, rows)

    def shards_of(self, split: str) -> tuple[ShardInfo, ...]:
        """Lists a split's shards in order; a `UserError` names the splits if there is no such."""
        if split not in self.splits:
            raise UserError(
                f"Data set {self.name!r} has no split {split!r}; it has {', '.join(self.splits)}. "
                f"Choose with --set data.train_split=, data.selection_split= or data.test_split=."
            )
        return tuple(shard for shard in self.shards if shard.split == split)


def split_totals(shards: Iterable[ShardInfo]) -> dict[str, SplitInfo]:
    """Adds up the rows of each split, splits in order of their first shard."""
    totals: dict[str, SplitInfo] = {}
    for shard in shards:
        before = totals.get(shard.split, SplitInfo(rows=0, labelled=0))
        totals[shard.split] = SplitInfo(
            rows=before.rows + shard.rows, labelled=before.labelled + shard.labelled
        )
    return totals


def save_manifest(manifest: Manifest, uri: str | Path) -> None:
    """Writes the manifest of shards that are in place in one move, which makes the set valid."""
    filesystem, root = resolve(uri)
    write_whole_at(filesystem, f"{root}/{MANIFEST}", manifest.model_dump_json(indent=1))


def load_manifest(uri: str | Path) -> Manifest:
    """Reads the manifest of a prepared set.

    Args:
        uri: Root of the set.

    Returns:
        The manifest.

    Raises:
        UserError: There is none, or it cannot be used.
    """
    filesystem, root = resolve(uri)
    where = f"{root}/{MANIFEST}"
    try:
        with filesystem.open_input_stream(where) as stream:
            content = json.loads(stream.read())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{uri}: not a prepared set (no {MANIFEST}). Make one with python -m usseg_ray.prepare."
        ) from None
    except OSError as error:
        raise UserError(f"{uri}: cannot be read ({first_line(error)}).") from None
    except (ValueError, RecursionError):
        raise UserError(f"{where}: not a JSON file. {AGAIN}") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{where}: format version {version}, this program reads {FORMAT_VERSION}. {AGAIN}"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}: key {key!r}: {first['msg']}. {AGAIN}") from None
    for name in (manifest.name, *manifest.splits):
        check_name(name, f"{where}: name")
    return manifest
