"""Prepared sets by name: what `--data NAME` means; the embedded set is made where it is missing.

It stands before the path of an image: a command asks here where the set lies and hands the answer
to `shards`. A folder, a URI and a name are all accepted, because a name is what people remember.
"""

import os
import shlex
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pyarrow import fs as pafs

from usseg_ray.core.config import DataConfig
from usseg_ray.core.errors import UserError, did_you_mean
from usseg_ray.core.files import resolve
from usseg_ray.core.sources import walk
from usseg_ray.data import synthetic
from usseg_ray.data.decode import IMAGE_SUFFIXES
from usseg_ray.data.manifest import (
    AGAIN,
    MANIFEST,
    Manifest,
    SplitInfo,
    load_manifest,
    save_manifest,
    split_totals,
)
from usseg_ray.data.shards import Row, write_split
from usseg_ray.data.verified import verify_once


def cache_root() -> Path:
    """Names the folder in which prepared sets are found by name: `$USSEG_DATA`, or the cache."""
    chosen = os.environ.get("USSEG_DATA")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "usseg_ray"


def is_prepared(uri: str | Path) -> bool:
    """Tells whether a folder or URI holds a complete prepared set."""
    filesystem, root = resolve(_impatient(str(uri)))
    try:
        found: bool = filesystem.get_file_info(f"{root}/{MANIFEST}").type == pafs.FileType.File
    except OSError as error:
        cause = " ".join(str(error).split())[:200]
        raise UserError(
            f"{uri}: cannot be reached ({cause}). Check the name, the region, and this machine's "
            "right to read it."
        ) from None
    return found


def _impatient(uri: str) -> str:
    """Bounds the first question to a bucket: Google's client asks for a quarter of an hour."""
    limit = "retry_limit_seconds"
    if not uri.startswith(("gs://", "gcs://")) or limit in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{limit}=3"


def find_prepared(name_or_path: str) -> str:
    """Finds a prepared set by its folder, URI, or name under `cache_root()`.

    Args:
        name_or_path: As the user gave it; a folder wins over a name.

    Returns:
        The absolute path or URI that holds the manifest.

    Raises:
        UserError: There is none; it says where was looked, what is there, and how to make one.
    """
    if "://" in name_or_path:
        if is_prepared(name_or_path):
            return name_or_path
        raise UserError(
            f"--data {name_or_path}: not a prepared set (no {MANIFEST}). "
            + _how_to_prepare(out=name_or_path)
        )
    folder, named = Path(name_or_path).expanduser().absolute(), cache_root() / name_or_path
    for candidate in (folder, named):
        if is_prepared(candidate):
            return str(candidate)
    raise UserError(
        _explain_folder(folder) if folder.is_dir() else _explain_name(name_or_path, folder, named)
    )


def _explain_name(name: str, folder: Path, named: Path) -> str:
    names = sorted(path.parent.name for path in cache_root().glob(f"*/{MANIFEST}"))
    there = f"it has {', '.join(names)}" if names else "it has none"
    return (
        f"--data {name}: no such folder ({folder}), nor a prepared set of that name in "
        f"{cache_root()} ({there}){did_you_mean(name, names)}\n{_how_to_prepare(out=str(named))}"
    )


def _how_to_prepare(source: str = "IMAGES", out: str = "DIR") -> str:
    return (
        "Make one with: python -m usseg_ray.prepare "
        f"--source {shlex.quote(source)} --out {shlex.quote(out)}"
    )


def _explain_folder(folder: Path) -> str:
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in walk(folder)):
        return f"--data {folder}: the folder holds images that are not prepared yet.\n" + (
            _how_to_prepare(str(folder), str(cache_root() / folder.name))
        )
    return f"--data {folder}: not a prepared set (no {MANIFEST}), and no images are in it either."


SYNTHETIC = "synthetic"

VERIFIED = ".verified"
"""Below `cache_root()`: which shards were found right, by size and time of their files."""

ROWS_PER_SHARD = 64


def open_data(config: DataConfig, *, make: bool = True) -> tuple[str, Manifest]:
    """Finds a prepared set; the embedded one is generated on its first use.

    Args:
        config: Names the set and the splits.
        make: Whether to generate the embedded set, and to check shards that were not checked yet;
            without, only facts are returned.

    Returns:
        URI of the set and its manifest.

    Raises:
        UserError: There is no such set, it lacks the training split, or a shard is damaged.
    """
    if config.name == SYNTHETIC:
        folder = cache_root() / f"{SYNTHETIC}-v{synthetic.VERSION}-seed{config.generator_seed}"
        root, manifest = str(folder), _facts(config.generator_seed)
        if make:
            if not (folder / "manifest.json").exists():
                _generate(folder, config.generator_seed)
            manifest = load_manifest(root)
    else:
        root = find_prepared(config.name)
        manifest = load_manifest(root)
    if make:
        cure = f"Remove {root}: it is made again." if config.name == SYNTHETIC else AGAIN
        verify_once(manifest, root, cache_root() / VERIFIED, cure)
    if config.train_split not in manifest.splits:
        raise UserError(
            f"{root} has no split {config.train_split!r} (data.train_split), only "
            f"{', '.join(manifest.splits)}."
        )
    return root, manifest


def _facts(seed: int) -> Manifest:
    splits = {name: SplitInfo(rows=rows, labelled=rows) for name, rows in synthetic.SPLITS.items()}
    return Manifest(
        name=SYNTHETIC,
        classes=synthetic.CLASSES,
        ignore_index=synthetic.IGNORE_INDEX,
        palette=synthetic.PALETTE,
        splits=splits,
        shards=(),
        source=f"synthetic v{synthetic.VERSION}, seed {seed}",
    )


def _generate(folder: Path, seed: int) -> None:
    """Writes the set beside its place and moves it there, so that two writers cannot mix."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        shards = tuple(
            shard
            for split, rows in synthetic.SPLITS.items()
            for shard in write_split(made, split, _rows(seed, split, rows), ROWS_PER_SHARD)
        )
        facts = _facts(seed).model_copy(update={"shards": shards, "splits": split_totals(shards)})
        save_manifest(facts, made)
        try:
            Path(made).rename(folder)
        except OSError:
            if not (folder / "manifest.json").exists():
                raise
        else:
            Path(made).mkdir()


def _rows(seed: int, split: str, count: int) -> Iterator[Row]:
    # Most of a scene is array arithmetic, beside which other threads run.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(partial(_row, seed, split), range(count))


def _row(seed: int, split: str, index: int) -> Row:
    image, label = synthetic.scene(seed, split, index)
    pixels, classes = synthetic.encode(image, label)
    return Row(f"{split}_{index:05d}", pixels, classes, *label.shape)
