"""What is kept of an image says where each cluster is, as it is in the image."""

import numpy as np

from tests import tiny
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.outputs.gallery.seen import SMALL, clearest, see, touching


def test_borders_are_counted_from_both_sides() -> None:
    clusters = np.array([[0, 0, 2], [0, 1, 2]])
    # 0|2 above, 0|1 and 1|2 below, 0|1 downwards.
    assert touching(clusters, 4).tolist() == [
        [0, 2, 1, 0],
        [2, 0, 1, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 0],
    ]


def test_the_clearest_and_the_closest_patches_are_found() -> None:
    scores = np.full((3, 24, 24), 0.1, np.float32)
    scores[0] = 0.6
    scores[0, :2, 4:6], scores[1, :2, 4:6] = 0.9, 0.0  # the third patch of the first row
    scores[0, 2:4, :2], scores[2, 2:4, :2] = 0.5, 0.45  # the first patch of the second
    scores[0, -2:, -2:], scores[1, -2:, -2:] = 0.2, 0.7  # the last
    found = clearest(scores)
    assert found.grid == (12, 12)
    assert (found.typical[0], found.borderline[0], found.rival[0]) == (2, 12, 2)
    assert np.isclose(found.sure[0], 0.9)
    assert np.isclose(found.margin[0], 0.05)
    assert (found.typical[1], found.borderline[1], found.rival[1]) == (143, 143, 0)
    assert found.sure[2] == -np.inf
    assert found.margin[2] == np.inf


def test_a_single_cluster_has_no_rival_but_itself() -> None:
    found = clearest(np.ones((1, 5, 7), np.float32))
    assert (found.grid, found.rival[0], found.margin[0]) == ((5, 7), 0, 0)


def test_what_is_kept_is_small_and_of_the_whole_image(segmenter: Segmenter) -> None:
    image = tiny.picture(6, (400, 640))[0]
    one = see(segmenter, image, "a")
    assert one.small.shape == (100, SMALL, 3)
    assert one.clusters.shape == (100, SMALL)
    assert np.isclose(one.shares.sum(), 1)
    mask = segmenter.segment(image).mask
    assert (one.clusters == mask[2::4, 2::4]).mean() > 0.95
    whole = segmenter.segments(image)
    assert (one.segments == whole[2::4, 2::4]).mean() > 0.9
    assert np.allclose(one.shares, np.bincount(mask.ravel(), minlength=3) / mask.size, atol=0.03)
