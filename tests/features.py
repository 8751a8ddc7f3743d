"""A tiny prepared set and what is wanted of it, for the tests of the feature store."""

from pathlib import Path
from typing import Any

import numpy as np

from tests import tiny
from usseg_ray.backbones import build_backbone
from usseg_ray.config import BackboneConfig
from usseg_ray.data.shards import load_manifest
from usseg_ray.data.transforms import Frame
from usseg_ray.feature_extraction import Wanted, want
from usseg_ray.feature_files import Entry

TEXTONS = BackboneConfig(name="textons")
BACKBONE = build_backbone(TEXTONS)
FRAME = Frame(tiny.SIDE)
IMAGES = tiny.SPLITS["train"]
IMAGES_PER_SHARD = 3
ROW_BYTES = BACKBONE.spec.dim * (tiny.SIDE // BACKBONE.spec.patch_size) ** 2 * 2


def wanted(root: Path, **options: Any) -> Wanted:
    """Wants features of the tiny set's training split, three images a shard."""
    backbone = options.pop("backbone", BACKBONE)
    config = options.pop("config", TEXTONS)
    options = {"frame": FRAME, "shard_bytes": IMAGES_PER_SHARD * ROW_BYTES} | options
    return want(str(root), load_manifest(root), "train", config, backbone, **options)


def everything(entry: Entry) -> np.ndarray:
    """Reads all token rows of an entry."""
    return entry.read("tokens", np.arange(entry.manifest.rows)).numpy()
