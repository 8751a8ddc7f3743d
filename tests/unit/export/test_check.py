"""onnxruntime beside torch: the same scores, or the graph is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from usseg_ray.core.errors import UserError
from usseg_ray.data.scaling import Scaling, Sight
from usseg_ray.export.check import compare_with_torch, tiles_of
from usseg_ray.export.graph import TileGraph
from usseg_ray.models.description import Preprocessing
from usseg_ray.models.segmenter import Segmenter

TILES = [tiny.picture(number)[0] for number in range(2)]


def test_the_same_model_finds_the_same(segmenter: Segmenter, content: bytes) -> None:
    found = compare_with_torch(content, TileGraph(segmenter).eval(), TILES, "two pictures")
    assert (found.tiles, found.source) == (2, "two pictures")
    assert 0 <= found.difference < 1e-5
    assert found.speed > 0


def test_another_model_is_refused(model: Path, content: bytes) -> None:
    other = Segmenter.open(model, torch.device("cpu"))
    for buffer in other.model.method.buffers():
        buffer.copy_(buffer.flip(0))
    with pytest.raises(UserError, match=r"probabilities differ by .* on two pictures: this graph"):
        compare_with_torch(content, TileGraph(other).eval(), TILES, "two pictures")


def test_what_onnxruntime_cannot_read_is_said(segmenter: Segmenter) -> None:
    with pytest.raises(UserError, match="onnxruntime refuses the graph"):
        compare_with_torch(b"no graph", TileGraph(segmenter).eval(), TILES, "two pictures")


def test_tiles_are_centre_squares_of_all_over_a_folder(tmp_path: Path) -> None:
    for number in range(20):
        pixels = tiny.picture(number, (40, 64))[0]
        (tmp_path / f"{number:02d}.png").write_bytes(tiny.png(pixels))
    (tmp_path / "00.png").write_text("no image")
    tiles, source = tiles_of(tmp_path, Preprocessing(size=32))
    assert {tile.shape for tile in tiles} == {(32, 32, 3)}
    assert source == f"{len(tiles)} images of {tmp_path}"
    assert 5 <= len(tiles) <= 10
    (tile,), source = tiles_of(tmp_path / "05.png", Preprocessing(size=40))
    assert source.startswith("1 image of")
    assert np.array_equal(tile, tiny.picture(5, (40, 64))[0][:, 12:52])
    with pytest.raises(UserError, match="no image that can be read"):
        tiles_of(tmp_path / "00.png", Preprocessing(size=32))


def test_tiles_of_deep_files_are_as_the_model_sees_them(tmp_path: Path) -> None:
    grey = tiny.picture(0, (32, 32))[0][..., 0]
    Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / "deep.png")
    sight = Sight(scaling=Scaling(low=(0, 0, 0), high=(255 * 16,) * 3, words="12-bit"))
    (tile,), _ = tiles_of(tmp_path / "deep.png", Preprocessing(size=32, sight=sight))
    assert np.array_equal(tile, np.stack([grey] * 3, -1))


def test_without_images_scenes_are_drawn() -> None:
    tiles, source = tiles_of(None, Preprocessing(size=48))
    assert {tile.shape for tile in tiles} == {(48, 48, 3)}
    assert source == "8 scenes of synthetic"
