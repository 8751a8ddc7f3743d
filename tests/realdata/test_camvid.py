"""CamVid and MSRC-21: real files through inspection, shards and reader, up to the floors' scores.

The reference figures (README of the reference data) are of whole images; here the evaluation frame
is a centre square of 160 pixels a side, which cuts the sides of a landscape image off.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from usseg_ray.core.config import BackboneConfig, build_config
from usseg_ray.core.errors import UserError
from usseg_ray.data.manifest import Manifest, load_manifest, save_manifest, split_totals
from usseg_ray.data.shards import verify, write_split
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.run import assemble
from usseg_ray.features.backbones import build_backbone
from usseg_ray.methods import get
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.layouts import discover

pytestmark = pytest.mark.realdata

ROWS = {
    "camvid": {"test": 233, "train": 367, "val": 101},
    "msrc21": {"test": 116, "train": 357, "val": 118},
}
CLASSES = {"camvid": 11, "msrc21": 21}
SIDE = 160
FITTING = {"num_classes": 1001, "pad_type": "same"}


class Set(NamedTuple):
    name: str
    root: str
    manifest: Manifest
    problems: int


@pytest.fixture(scope="module", params=["camvid", "msrc21"])
def prepared(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Set:
    images = discover(shared / "data" / request.param)
    inspector = Inspector(images.meaning)
    root = tmp_path_factory.mktemp(request.param)
    shards = tuple(
        shard
        for split, entries in images.splits.items()
        for shard in write_split(root, split, inspector.rows(entries))
    )
    manifest = Manifest(
        name=images.name,
        classes=images.classes,
        ignore_index=images.ignore_index,
        palette=images.palette,
        splits=split_totals(shards),
        shards=shards,
        source=request.param,
    )
    save_manifest(manifest, root)
    return Set(request.param, str(root), manifest, len(inspector.problems))


def test_every_image_is_prepared_with_its_label(prepared: Set) -> None:
    assert prepared.problems == 0
    splits = {name: (s.rows, s.labelled) for name, s in prepared.manifest.splits.items()}
    assert splits == {name: (rows, rows) for name, rows in ROWS[prepared.name].items()}
    assert len(prepared.manifest.classes) == CLASSES[prepared.name]
    assert load_manifest(prepared.root) == prepared.manifest
    verify(prepared.manifest, prepared.root)


def floor(data: Set, method: str) -> float:
    settings = {
        "num_clusters": len(data.manifest.classes),
        "backbone.name": "textons",
        "data.eval_size": SIDE,
        "train.eval_batch_size": 32,
        "method.restarts": 3,
    }
    config = build_config(get(method).Config, [settings])
    context = PlainContext(torch.device("cpu"), [])
    evaluation = assemble(config, get(method), OpenSet(data.root, data.manifest), context).score(
        "val"
    )
    assert evaluation.rows == ROWS[data.name]["val"]
    assert evaluation.scores is not None
    return evaluation.scores.unsup_miou


# Points of mIoU on the validation splits, K = classes.
REFERENCE = {
    ("camvid", "position"): 20.2,
    ("camvid", "colour"): 20.8,
    ("msrc21", "position"): 4.1,
    ("msrc21", "colour"): 9.0,
}


@pytest.mark.parametrize("method", ["position", "colour"])
def test_floors_are_where_the_reference_has_them(prepared: Set, method: str) -> None:
    assert floor(prepared, method) == pytest.approx(REFERENCE[prepared.name, method], abs=3)


def mobilenet(shared: Path, **timm_args: Any) -> BackboneConfig:
    return BackboneConfig(
        name="mobilenetv2_100",
        weights=str(shared / "weights" / "mobilenetv2_100_imagenet_supervised.safetensors"),
        timm_args=timm_args,
        mean=(128 / 255,) * 3,
        std=(128 / 255,) * 3,
        layer=3,
    )


def test_the_real_weights_load_strictly(shared: Path) -> None:
    backbone = build_backbone(mobilenet(shared, **FITTING))
    assert (backbone.spec.dim, backbone.spec.patch_size) == (96, 16)
    with torch.no_grad():
        tokens = backbone(torch.rand(1, 3, 96, 128)).tokens
    assert tokens.shape == (1, 96, 6, 8)
    assert tokens.isfinite().all()
    assert tokens.std() > 0.1


def test_arguments_that_the_weights_do_not_fit_fail_clearly(shared: Path) -> None:
    with pytest.raises(UserError) as caught:
        build_backbone(mobilenet(shared, pad_type="same"))
    assert "does not fit mobilenetv2_100" in str(caught.value)
    assert "classifier.weight" in str(caught.value)
    assert "num_classes: 1001" in str(caught.value)
