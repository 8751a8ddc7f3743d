"""Tiles: no seams, whatever the image's size and however it is cut."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from tests import tiny
from usseg_ray.core.errors import UserError
from usseg_ray.models.names import Names
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.outputs import tiles
from usseg_ray.outputs.base import Strip
from usseg_ray.outputs.pixels import DecodedPixels
from usseg_ray.outputs.tiles import EdgeTiles, Tiling, narrow, segment_tiles
from usseg_ray.scoring.protocols import PLAIN, Refinement

IMAGE = tiny.picture(8, (320, 448))[0]
TILING = Tiling(64, 0.25)


def whole(strips: list[Strip]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.concatenate([strip.mask for strip in strips]),
        np.concatenate([strip.confidence for strip in strips]),
    )


def tiled(segmenter: Segmenter, image: np.ndarray, tiling: Tiling) -> tuple[np.ndarray, np.ndarray]:
    return whole(list(segment_tiles(segmenter, DecodedPixels(image), tiling)))


@pytest.mark.parametrize(
    ("length", "side", "overlap"), [(64, 64, 0.25), (65, 64, 0.25), (321, 64, 0.5)]
)
def test_tiles_cover_an_edge_with_weights_of_one(length: int, side: int, overlap: float) -> None:
    axis = EdgeTiles.of(length, side, overlap)
    assert (axis.starts[0], axis.starts[-1]) == (0, length - side)
    steps = np.diff(axis.starts)
    assert (steps <= np.ceil(side * (1 - overlap))).all()
    total = sum(axis.matrix(index, 0, length, 5).sum(1) for index in range(len(axis.starts)))
    assert np.allclose(total, 1)


def test_upsampling_is_that_of_interpolate() -> None:
    grid = torch.rand(1, 2, 4, 4, dtype=torch.float64)
    matrix = torch.from_numpy(EdgeTiles.of(50, 50, 0.25).matrix(0, 0, 50, 4))
    expected = interpolate(grid, (50, 50), mode="bilinear", align_corners=False)
    assert torch.allclose(matrix @ grid[0] @ matrix.T, expected[0])


@pytest.mark.parametrize("refinement", [PLAIN, Refinement.parse("flip+guided")], ids=str)
def test_an_image_of_one_tile_is_seen_as_without_tiles(
    segmenter: Segmenter, refinement: Refinement
) -> None:
    image = tiny.picture(4, (64, 64))[0]
    seeing = Segmenter(segmenter.description, segmenter.model, refinement)
    mask, confidence = tiled(seeing, image, Tiling(1024))
    whole_image = seeing.segment(image)
    assert np.array_equal(mask, whole_image.mask)
    assert np.allclose(confidence, whole_image.confidence, atol=1e-5)


def test_merged_clusters_are_one_in_tiles_too(segmenter: Segmenter) -> None:
    tree = segmenter.names.tree()
    tree[2]["merge_into"] = 0
    names = Names.of_tree(tree, "test")
    about = segmenter.description.model_copy(update={"names": names})
    merged = Segmenter(about, segmenter.model)
    image = tiny.picture(4, (64, 64))[0]
    mask, confidence = tiled(merged, image, Tiling(1024))
    plain = merged.segment(image)
    assert set(np.unique(mask)) == {0, 1}
    assert np.array_equal(mask, plain.mask)
    assert np.allclose(confidence, plain.confidence, atol=1e-5)


def test_strips_and_blocks_change_nothing(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, confidence = tiled(segmenter, IMAGE, TILING)
    assert mask.shape == confidence.shape == (320, 448)
    monkeypatch.setattr(tiles, "ROWS", 37)
    monkeypatch.setattr(tiles, "_BLOCK_NUMBERS", 3 * 37 * 50)
    monkeypatch.setattr(tiles, "_TILES_AT_A_TIME", 2)
    other, certain = tiled(segmenter, IMAGE, TILING)
    assert np.array_equal(mask, other)
    assert np.allclose(confidence, certain, atol=1e-5)


def test_neighbouring_pixels_differ_no_more_at_a_seam_than_inside(segmenter: Segmenter) -> None:
    _, confidence = tiled(segmenter, IMAGE, TILING)
    columns = EdgeTiles.of(448, 64, 0.25)
    edges = sorted({*columns.starts[1:], *(start + 64 for start in columns.starts[:-1])})
    steps = np.abs(np.diff(confidence, axis=1)).mean(0)
    at_seams = steps[np.array(edges) - 1]
    inside = np.delete(steps, np.array(edges) - 1)
    assert at_seams.mean() <= 1.25 * inside.mean()


def test_another_tiling_finds_nearly_the_same(segmenter: Segmenter) -> None:
    mask, _ = tiled(segmenter, IMAGE, TILING)
    moved, _ = tiled(segmenter, IMAGE[8:, 8:], TILING)
    denser, _ = tiled(segmenter, IMAGE, Tiling(64, 0.5))
    assert (mask[8:, 8:] == moved).mean() > 0.95
    assert (mask == denser).mean() > 0.95


def test_it_finds_what_the_whole_image_shows(segmenter: Segmenter) -> None:
    # A side that is the model's own: pixels are seen as they are, with and without tiles.
    image = tiny.picture(8, (192, 192))[0]
    size = segmenter.description.preprocessing.size
    assert size == 32
    mask, _ = tiled(segmenter, image, Tiling(32, 0.5))
    grid = segmenter.probabilities(image[None])
    plain = interpolate(grid.log(), (192, 192), mode="bilinear", align_corners=False).argmax(1)
    assert (mask == segmenter.names.apply(plain[0].numpy())).mean() > 0.95


class Holed(DecodedPixels):
    """An image with a corner of nothing."""

    def absent(self, top: int, height: int) -> np.ndarray:
        hole = np.zeros((self.height, self.width), bool)
        hole[:50, :60] = True
        return hole[top : top + height]


def test_pixels_of_nothing_are_of_no_output(segmenter: Segmenter) -> None:
    mask, confidence = whole(list(segment_tiles(segmenter, Holed(IMAGE), TILING)))
    assert (mask[:50, :60] == 255).all()
    assert (confidence[:50, :60] == 0).all()
    assert (mask == 255).sum() == 50 * 60


def test_masks_take_two_bytes_where_one_does_not_do() -> None:
    assert narrow(np.array([[0, 255]]), 255).dtype == np.uint8
    assert narrow(np.array([[0, 65535]]), 65535).tolist() == [[0, 65535]]


@pytest.mark.parametrize(("side", "overlap"), [(64, 0.0), (64, 0.9), (8, 0.25)])
def test_tilings_that_cannot_be_are_refused(side: int, overlap: float) -> None:
    with pytest.raises(UserError, match=r"--(overlap|tile)"):
        Tiling(side, overlap)
