"""From the name of a data set to its manifest; makes the embedded set where it is missing."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from usseg_ray.config import DataConfig, UserError
from usseg_ray.data import synthetic
from usseg_ray.data.library import cache_root, find_prepared
from usseg_ray.data.shards import (
    Manifest,
    Row,
    SplitInfo,
    load_manifest,
    save_manifest,
    split_totals,
    write_split,
)

SYNTHETIC = "synthetic"
ROWS_PER_SHARD = 64


def open_data(config: DataConfig, *, make: bool = True) -> tuple[str, Manifest]:
    """Finds a prepared set; the embedded one is generated on its first use.

    Args:
        config: Names the set and the splits.
        make: Whether to generate the embedded set; without, only its facts are returned.

    Returns:
        URI of the set and its manifest.

    Raises:
        UserError: There is no such set, or it lacks the training split.
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
    for index in range(count):
        image, label = synthetic.scene(seed, split, index)
        pixels, classes = synthetic.encode(image, label)
        yield Row(f"{split}_{index:05d}", pixels, classes, *label.shape)
