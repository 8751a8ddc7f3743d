"""The gallery keeps the surest patches of every cluster, whatever the batches."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from usseg_ray.scoring.patches import Patches, PatchGallery

GREY = 128


def images(count: int, height: int = 24, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def filled(pixels: Tensor, scores: Tensor, parts: list[int] | int, **sizes: int) -> Patches:
    gallery = PatchGallery(scores.shape[1], **sizes)
    for some, theirs in zip(pixels.split(parts), scores.split(parts), strict=True):
        gallery.add(some, theirs)
    return gallery.patches()


def naive(pixels: Tensor, scores: Tensor, per_cluster: int, side: int) -> list[list[np.ndarray]]:
    """Every cluster's patches, by loops over images, clusters and places."""
    found: list[list[tuple[float, int, np.ndarray]]] = [[] for _ in range(scores.shape[1])]
    height, width = pixels.shape[2:]
    rows, columns = scores.shape[2:]
    for number, (image, grid) in enumerate(zip(pixels, scores, strict=True)):
        for k, candidates in enumerate(found):
            best = None
            for y in range(rows):
                for x in range(columns):
                    column = grid[:, y, x].tolist()
                    if column.index(max(column)) == k and (best is None or column[k] > best[0]):
                        best = (column[k], y, x)
            if best is None:
                continue
            value, y, x = best
            top = int((y + 0.5) * height / rows) - side // 2
            left = int((x + 0.5) * width / columns) - side // 2
            top, left = min(max(top, 0), height - side), min(max(left, 0), width - side)
            patch = image[:, top : top + side, left : left + side].permute(1, 2, 0).numpy()
            candidates.append((-value, number, patch))
    return [
        [patch for *_, patch in sorted(candidates, key=lambda one: one[:2])[:per_cluster]]
        for candidates in found
    ]


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 4), st.sampled_from([3, 4, 8]))
def test_a_gallery_is_what_loops_would_find(
    seed: int, count: int, per_cluster: int, side: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pixels = images(count, 9, 13)
    # Few values, so that scores are often equal.
    scores = torch.randint(0, 4, (count, 5, 3, 4), generator=generator).float()
    patches = filled(pixels, scores, count, per_cluster=per_cluster, side=side)
    for k, expected in enumerate(naive(pixels, scores, per_cluster, side)):
        assert patches.found[k].sum() == len(expected)
        assert patches.found[k, : len(expected)].all()
        assert np.array_equal(
            patches.pixels[k, : len(expected)],
            np.array(expected, np.uint8).reshape(-1, side, side, 3),
        )
        assert (patches.pixels[k, len(expected) :] == GREY).all()


@given(st.integers(0, 2**31), st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_batches_do_not_matter(seed: int, parts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = sum(parts)
    scores = torch.randint(0, 6, (count, 4, 5, 5), generator=generator).float()
    whole = filled(images(count), scores, count, per_cluster=3, side=8)
    split = filled(images(count), scores, parts, per_cluster=3, side=8)
    assert np.array_equal(whole.scores, split.scores)
    assert np.array_equal(whole.pixels, split.pixels)


def test_only_places_that_a_cluster_wins_count() -> None:
    scores = torch.tensor([[[[5.0, 1.0]], [[9.0, 0.0]], [[1.0, 0.5]]]])
    patches = filled(images(1), scores, 1, per_cluster=2, side=8)
    assert patches.scores[:, 0].tolist() == [1.0, 9.0, -np.inf]
    assert patches.found.tolist() == [[True, False], [True, False], [False, False]]


def test_the_best_come_first_and_push_out_the_worst() -> None:
    scores = torch.tensor([3.0, 1.0, 4.0, 2.0]).view(4, 1, 1, 1)
    patches = filled(images(4), scores, 1, per_cluster=3, side=24)
    assert patches.scores.tolist() == [[4.0, 3.0, 2.0]]
    for patch, image in zip(patches.pixels[0], images(4)[[2, 0, 3]], strict=True):
        assert np.array_equal(patch, image[:, :, 4:28].permute(1, 2, 0).numpy())


def test_patches_lie_around_their_place_and_stay_in_the_image() -> None:
    pixels = images(1, 24, 32)
    # Cells are 8 pixels a side, so the middle of the second row and third column is (12, 20).
    for (row, column), (top, left) in {(0, 0): (0, 0), (1, 2): (7, 15), (2, 3): (14, 22)}.items():
        scores = torch.zeros(1, 1, 3, 4)
        scores[0, 0, row, column] = 1
        patch = filled(pixels, scores, 1, side=10).pixels[0, 0]
        expected = pixels[0, :, top : top + 10, left : left + 10].permute(1, 2, 0)
        assert np.array_equal(patch, expected.numpy())


def test_an_image_smaller_than_a_patch_gets_a_grey_frame() -> None:
    patch = filled(images(1, 6, 20), torch.ones(1, 1, 3, 10), 1, side=10).pixels[0, 0]
    assert (patch[:2] == GREY).all()
    assert (patch[8:] == GREY).all()
    assert np.array_equal(patch[2:8], images(1, 6, 20)[0, :, :, :10].permute(1, 2, 0).numpy())


def test_images_of_several_sizes_and_half_precision_are_welcome() -> None:
    gallery = PatchGallery(2, per_cluster=2, side=8)
    for size in (24, 40):
        gallery.add(images(2, size, size), torch.full((2, 2, 3, 3), size, dtype=torch.bfloat16))
    patches = gallery.patches()
    assert patches.scores.dtype == np.float32
    assert patches.scores.tolist() == [[40.0, 40.0], [-np.inf, -np.inf]]


def test_what_was_handed_out_does_not_change() -> None:
    gallery = PatchGallery(1, per_cluster=1, side=8)
    gallery.add(images(1), torch.zeros(1, 1, 1, 1))
    patches = gallery.patches()
    before = patches.pixels.copy()
    gallery.add(255 - images(1), torch.ones(1, 1, 1, 1))
    assert np.array_equal(patches.pixels, before)
    assert patches.scores.tolist() == [[0.0]]
    assert not np.array_equal(gallery.patches().pixels, before)


def test_eight_patches_of_64_pixels_are_kept_unless_told_otherwise() -> None:
    found = filled(images(9, 70, 80), torch.rand(9, 3, 5, 5), 9)
    assert found.pixels.shape == (3, 8, 64, 64, 3)
