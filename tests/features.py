"""A tiny prepared set and what is wanted of it, for the tests of the feature store."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from tests import tiny
from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.views import Frame
from usseg_ray.data.manifest import load_manifest
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.store.entry import FeatureEntry
from usseg_ray.features.store.extraction import FeatureRequest, features_here, want
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.store import FeatureStore

TEXTONS = BackboneConfig(name="textons")
BACKBONE = build_backbone(TEXTONS)
HERE = features_here(BACKBONE, "cpu")
FRAME = Frame(tiny.SIDE)
IMAGES = tiny.SPLITS["train"]
IMAGES_PER_SHARD = 3
NUM_SHARDS = 5
ROW_BYTES = BACKBONE.spec.dim * (tiny.SIDE // BACKBONE.spec.patch_size) ** 2 * 2


def wanted(root: Path, **options: Any) -> FeatureRequest:
    """Wants features of the tiny set's training split, three images a shard."""
    asked: dict[str, Any] = {
        "config": TEXTONS,
        "backbone": BACKBONE,
        "frame": FRAME,
        "shard_bytes": IMAGES_PER_SHARD * ROW_BYTES,
    }
    return want(str(root), load_manifest(root), "train", **asked | options)


def obtain(folder: Path, asked: FeatureRequest) -> FeatureEntry:
    """Stores features with textons, in this process."""
    return FeatureStore(FeatureFolder(folder)).obtain(asked, HERE)


def everything(entry: FeatureEntry) -> np.ndarray:
    """Reads all token rows of an entry."""
    return entry.read("tokens", np.arange(entry.manifest.rows)).numpy()


def vit(folder: Path, seed: int = 0) -> BackboneConfig:
    """Saves a tiny transformer with random weights."""
    args: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 3, "num_classes": 0}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **args)
    path = folder / f"vit-{seed}.safetensors"
    save_file(model.state_dict(), path)
    return BackboneConfig(name="vit_tiny_patch16_224", weights=str(path), timm_args=args)
