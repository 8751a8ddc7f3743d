"""A model as one graph: any number of tiles, the model's own probabilities, and its names."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from tests.unit.models.conftest import kept
from usseg_ray.core.errors import UserError
from usseg_ray.export import graph
from usseg_ray.export.graph import TileGraph, metadata, require, to_onnx, traced
from usseg_ray.models.description import read_description, write_description
from usseg_ray.models.names import Names
from usseg_ray.models.segmenter import Segmenter

TILES = np.stack([tiny.picture(number)[0] for number in range(3)])


def test_onnxruntime_finds_what_the_model_finds(segmenter: Segmenter, content: bytes) -> None:
    session = onnxruntime.InferenceSession(content)
    (given,), (told,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == (
        "images",
        "tensor(uint8)",
        ["batch", 32, 32, 3],
    )
    assert (told.name, told.type, told.shape) == ("scores", "tensor(float)", ["batch", 3, 32, 32])
    for count in (1, 2, 3):
        (scores,) = session.run(["scores"], {"images": TILES[:count]})
        assert scores.shape == (count, 3, 32, 32)
        for tile, own in zip(TILES, scores, strict=False):
            expected = segmenter.segment(tile, scores=True).scores
            assert expected is not None
            assert np.allclose(own, expected, atol=1e-5)


def test_merged_clusters_count_for_the_one_that_is_left(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    about = read_description(folder)
    first, second, third = about.names.clusters
    merged = Names((first, second.model_copy(update={"merge_into": 0}), third))
    write_description(about.model_copy(update={"names": merged}), folder)
    named = Segmenter.open(folder, torch.device("cpu"))
    session = onnxruntime.InferenceSession(to_onnx(named))
    (scores,) = session.run(["scores"], {"images": TILES})
    for tile, own in zip(TILES, scores, strict=True):
        expected = named.segment(tile, scores=True)
        assert expected.scores is not None
        assert np.allclose(own, expected.scores, atol=1e-5)
        assert not own[1].any()
        values = np.array(merged.final)[own.argmax(0)]
        assert (values == expected.mask).mean() > 0.99


def test_a_graph_says_what_it_is(segmenter: Segmenter, content: bytes) -> None:
    found = onnxruntime.InferenceSession(content).get_modelmeta().custom_metadata_map
    assert found == metadata(segmenter.description)
    read = {key: json.loads(value) for key, value in found.items()}
    assert [name["name"] for name in read["names"]] == ["cluster 0", "cluster 1", "cluster 2"]
    assert read["outputs"] == [0, 1, 2]
    assert read["palette"] == segmenter.names.palette[:3].tolist()
    preprocessing = {"size": 32, "filter": "bilinear", "sight": {"bands": [], "scaling": None}}
    assert read["preprocessing"] == preprocessing
    assert read["model"]["method"] == "kmeans"


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("acseg", {}),
        ("cause", {}),
        ("colour", {}),
        ("equss", {}),
        ("hp", {}),
        ("image", {}),
        ("picie", {}),
        ("position", {}),
        ("ppap", {}),
        ("primaps", {}),
        ("smooseg", {}),
        ("stego", {"protocol": "stego-320", "data__eval_size": 32}),
        ("kmeans", {"backbone__context": 0.75, "method__context": 0.75}),
    ],
)
def test_every_method_is_traced_for_any_number_of_tiles(
    tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    opened = Segmenter.open(
        kept(tmp_path, method, train__epochs=1, **settings), torch.device("cpu")
    )
    tiles = TileGraph(opened).eval()
    program = traced(tiles).module()
    with torch.no_grad():
        for count in (1, 3):
            images = torch.from_numpy(TILES[:count])
            assert torch.allclose(program(images), tiles(images), atol=1e-5)


def acseg_on_vit(folder: Path, **settings: Any) -> Segmenter:
    import timm

    weights = folder / "drawn.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), weights)
    settings |= {"backbone__name": "test_vit", "backbone__layer": None, "method__num_heads": 4}
    made = kept(folder, "acseg", weights, train__epochs=1, **settings)
    return Segmenter.open(made, torch.device("cpu"))


def test_what_crops_each_region_is_no_graph(tmp_path: Path) -> None:
    crops = acseg_on_vit(tmp_path, method__region_vector="cls")
    with pytest.raises(UserError, match=r"acseg on test_vit cannot be one graph .* take every"):
        to_onnx(crops)


def test_what_splits_the_regions_of_each_image_is_one(tmp_path: Path) -> None:
    splits = acseg_on_vit(tmp_path, method__background="split")
    session = onnxruntime.InferenceSession(to_onnx(splits))
    (scores,) = session.run(["scores"], {"images": TILES})
    for tile, own in zip(TILES, scores, strict=True):
        expected = splits.segment(tile, scores=True).scores
        assert expected is not None
        assert np.allclose(own, expected, atol=1e-5)


def test_what_is_too_large_for_a_file_is_said(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "_MOST_BYTES", 8)
    with pytest.raises(UserError, match="more than the 2 GB of a file of ONNX"):
        to_onnx(segmenter)


def test_packages_that_are_missing_are_named() -> None:
    require(("numpy",))
    with pytest.raises(
        UserError, match=r'missing \(onnx_of_nobody\): pip install "usseg-ray\[onnx'
    ):
        require(("numpy", "onnx_of_nobody"))
