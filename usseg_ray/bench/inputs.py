"""What benchmarks run on: generated photograph-like files, sets of them, and a random backbone.

Off an image's path. Nothing is downloaded: pictures have the size of CamVid's, labels are coarse
blocks, and weights are random, since none of it changes how long anything takes.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import simplejpeg
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from usseg_ray.core.config import BackboneConfig, flatten
from usseg_ray.data.manifest import Manifest, save_manifest, split_totals
from usseg_ray.data.shards import Row, write_split

HEIGHT, WIDTH = 360, 480
CAMVID_SPLITS = {"train": 367, "val": 101, "test": 233}
NUM_CLASSES, IGNORE_INDEX = 11, 255
SIDE = 224
BACKBONE = "vit_small_patch16_224"
_GRAIN = 40


def make_jpegs(count: int, seed: int = 0) -> Iterator[bytes]:
    """Generates distinct photograph-like JPEG files, in order.

    Args:
        count: How many.
        seed: Keys the pictures.

    Yields:
        A file of 480x360 pixels: smooth colour under sensor-like noise, quality 90, 4:2:0.
    """
    noise = np.random.default_rng(seed).normal(0, 9, (2 * HEIGHT, 2 * WIDTH, 1)).astype(np.int16)

    def encode(index: int) -> bytes:
        rng = np.random.default_rng([seed, index])
        grain = rng.integers(0, 256, (HEIGHT // _GRAIN, WIDTH // _GRAIN, 3), np.uint8)
        smooth = Image.fromarray(grain).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        top, left = rng.integers(0, (HEIGHT, WIDTH)).tolist()
        pixels = np.asarray(smooth) + noise[top : top + HEIGHT, left : left + WIDTH]
        picture = np.clip(pixels, 0, 255).astype(np.uint8)
        data: bytes = simplejpeg.encode_jpeg(picture, quality=90, colorsubsampling="420")
        return data

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # In portions: mapping all at once would hold every file in memory.
        for start in range(0, count, 1024):
            yield from pool.map(encode, range(start, min(start + 1024, count)))


@contextmanager
def scratch() -> Iterator[Path]:
    """Makes a folder that goes at the end of the block."""
    with TemporaryDirectory(prefix="usseg-bench-") as place:
        yield Path(place)


def write_generated_set(
    folder: Path,
    splits: Mapping[str, int],
    *,
    labelled: bool = False,
    jpegs: Sequence[bytes] | None = None,
) -> Manifest:
    """Writes a prepared set of generated images.

    Args:
        folder: Where to.
        splits: Split -> images of it.
        labelled: Whether they have labels, of 11 classes.
        jpegs: Files that are repeated in place of distinct ones.

    Returns:
        Its manifest.
    """
    shards = tuple(
        shard
        for seed, (split, count) in enumerate(splits.items())
        for shard in write_split(folder, split, _rows(split, count, seed, labelled, jpegs))
    )
    manifest = Manifest(
        name="bench",
        classes=tuple(f"class {number}" for number in range(NUM_CLASSES)) if labelled else (),
        ignore_index=IGNORE_INDEX,
        splits=split_totals(shards),
        shards=shards,
        source="usseg_ray.bench",
    )
    save_manifest(manifest, folder)
    return manifest


def _rows(
    split: str, count: int, seed: int, labelled: bool, jpegs: Sequence[bytes] | None
) -> Iterator[Row]:
    images = make_jpegs(count, seed) if jpegs is None else islice(cycle(jpegs), count)
    for index, image in enumerate(images):
        label = _label(seed, index) if labelled else None
        yield Row(f"{split}_{index:06d}", image, label, HEIGHT, WIDTH)


def _label(seed: int, index: int) -> bytes:
    rng = np.random.default_rng([seed, index])
    blocks = rng.integers(0, NUM_CLASSES, (HEIGHT // _GRAIN, WIDTH // _GRAIN), np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks.repeat(_GRAIN, 0).repeat(_GRAIN, 1)).save(file, "PNG")
    return file.getvalue()


def random_backbone(folder: Path, name: str = BACKBONE) -> BackboneConfig:
    """Saves a timm model with random weights, since the product never makes up weights itself.

    Args:
        folder: Where the weights go.
        name: Of the model.

    Returns:
        Settings that load it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0)
    path = folder / f"{name}.safetensors"
    save_file(model.state_dict(), path)
    return BackboneConfig(name=name, weights=str(path), timm_args={"num_classes": 0})


def storable(backbone: BackboneConfig) -> dict[str, Any]:
    """Lists assignments under which all that training shows may be stored: fixed crops."""
    return {
        **flatten(backbone, "backbone."),
        "data.train_size": SIDE,
        "data.eval_size": SIDE,
        "data.crops": "centre",
        "data.flip": False,
    }
