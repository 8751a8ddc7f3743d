"""What a GPU stores in bfloat16 is close to what a CPU computes in float32."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.features import everything, vit, wanted
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.store.extraction import features_here
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.recipe import Arithmetic
from usseg_ray.features.store.store import FeatureStore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def stored(root: Path, folder: Path, device: str, arithmetic: Arithmetic) -> torch.Tensor:
    config = vit(folder)
    backbone = build_backbone(config)
    asked = wanted(
        root,
        config=config,
        backbone=backbone,
        parts=("tokens", "local"),
        arithmetic=arithmetic,
    )
    store = FeatureStore(FeatureFolder(folder / "store"))
    with store.obtain(asked, features_here(backbone, device)) as entry:
        local = entry.feature_map(np.arange(14), torch.device(device)).local
        assert local is not None
        assert local.device.type == device
        return torch.from_numpy(everything(entry)).float()


def test_features_computed_on_a_gpu_are_close(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    here = stored(tmp_path / "set", tmp_path, "cpu", "float32")
    there = stored(tmp_path / "set", tmp_path, "cuda", "bfloat16")
    assert torch.cosine_similarity(here, there, dim=1).min() > 0.98
    assert len(FeatureFolder(tmp_path / "store").entries()) == 2
