"""A prepared set of tiny pictures that three classes fill by colour, for every suite's runs."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from usseg_ray.core.config import Config, MethodConfig, build_config
from usseg_ray.data.manifest import Manifest, save_manifest, split_totals
from usseg_ray.data.shards import Row, write_split
from usseg_ray.methods import get

CLASSES = ("red", "green", "blue")
IGNORE = 9
SIDE = 32
SQUARE = (SIDE, SIDE)
SPLITS = {"train": 14, "val": 7, "test": 5}
SETTINGS: dict[str, Any] = {
    "num_clusters": 3,
    "backbone.name": "textons",
    "data.name": "tiny",
    "data.train_size": SIDE,
    "data.eval_size": SIDE,
    "train.epochs": 2,
    "train.batch_size": 4,
    "train.eval_batch_size": 4,
}
ACSEG: dict[str, Any] = {
    "method.num_prototypes": 4,
    "method.num_blocks": 1,
    "method.num_heads": 3,
    "method.restarts": 2,
    "method.lr": 1e-3,
    "method.warmup_steps": 2,
}

OWN: dict[str, dict[str, Any]] = {
    "acseg": ACSEG,
    "stego": {"method.dim": 8},
    "hp": {"method.dim": 8, "method.affinity": "cosine", "method.pool_size": 12},
    "cause": {"method.num_codes": 6, "method.dim": 8, "method.window": 2},
    "smooseg": {"method.dim": 8},
    "primaps": {},
    "equss": {"method.dim": 8, "method.subspaces": 2, "method.codebook_size": 6},
    "picie": {
        "method.network.name": "test_resnet",
        "method.network.pretrained": False,
        "method.cluster_batch": 4,
    },
}


def picture(number: int, shape: tuple[int, int] = SQUARE) -> tuple[np.ndarray, np.ndarray]:
    """Draws an image and its labels: coloured, noisy quarters and a strip that does not count."""
    random = np.random.default_rng(number)
    quarters = random.permutation([0, 1, 2, int(random.integers(3))]).reshape(2, 2)
    height, width = shape
    label = quarters.repeat(height // 2, 0).repeat(width // 2, 1).astype(np.uint8)
    image = 200 * np.eye(3)[label] + random.integers(0, 50, (*shape, 3))
    label[:, :2] = IGNORE
    return image.astype(np.uint8), label


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def row(
    split: str,
    index: int,
    *,
    labelled: bool = True,
    relabel: Callable[[np.ndarray], np.ndarray] = np.asarray,
    shape: tuple[int, int] = SQUARE,
) -> Row:
    image, label = picture(1000 * len(split) + index, shape)
    return Row(
        f"{split}-{index:02d}", png(image), png(relabel(label)) if labelled else None, *shape
    )


def write(
    root: Path,
    *,
    labelled: bool = True,
    relabel: Callable[[np.ndarray], np.ndarray] = np.asarray,
    splits: Mapping[str, int] = SPLITS,
    shape: tuple[int, int] = SQUARE,
) -> Manifest:
    """Writes the set, four rows a shard, with the true labels or what `relabel` makes of them."""
    shards = [
        shard
        for split, count in splits.items()
        for shard in write_split(
            root,
            split,
            (row(split, i, labelled=labelled, relabel=relabel, shape=shape) for i in range(count)),
            4,
        )
    ]
    manifest = Manifest(
        name="tiny",
        classes=CLASSES if labelled else (),
        ignore_index=IGNORE,
        splits=split_totals(shards),
        shards=tuple(shards),
        source="a test",
    )
    save_manifest(manifest, root)
    return manifest


def config(method: str = "acseg", **settings: Any) -> Config[MethodConfig]:
    """Builds settings for the set; `a__b` stands for the key `a.b`."""
    own = OWN.get(method, {"method.restarts": 2})
    changed = {key.replace("__", "."): value for key, value in settings.items()}
    return build_config(get(method).Config, [SETTINGS, own, changed])
