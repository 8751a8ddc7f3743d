"""Pictures mark what they are about, where it is."""

from dataclasses import replace

import numpy as np
import pytest

from tests import tiny
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.outputs.gallery.pictures import (
    PICTURED,
    borderline,
    grid,
    largest,
    lit,
    marked,
    per_row,
    typical,
)
from usseg_ray.outputs.gallery.seen import GalleryImage, see
from usseg_ray.outputs.gallery.survey import Survey


@pytest.fixture(scope="module")
def one(segmenter: Segmenter) -> GalleryImage:
    return see(segmenter, tiny.picture(3, (96, 144))[0], "<i>.jpg")


def test_a_patch_is_framed_where_it_is(one: GalleryImage) -> None:
    one = replace(one, segments=np.zeros_like(one.segments))
    columns = one.patches.grid[1]
    patch = 5 * columns + 7
    changed = (marked(one, patch) != one.small).any(2)
    rows, across = np.nonzero(changed)
    height, width = one.small.shape[:2]
    middle = (5.5 * height / one.patches.grid[0], 7.5 * width / columns)
    assert np.allclose([rows.mean(), across.mean()], middle, atol=1.5)
    # Its inside is as it was.
    assert not changed[int(middle[0]), int(middle[1])]
    assert changed.sum() < 600


def test_the_segment_of_a_patch_is_outlined(one: GalleryImage) -> None:
    segments = np.zeros_like(one.segments)
    segments[10:60, 10:60] = 3
    segments[10:60, 60:] = 4
    one = replace(one, segments=segments, small=np.full_like(one.small, 100))
    rows, columns = one.patches.grid
    height, width = segments.shape
    inside = (30 * rows // height) * columns + 30 * columns // width
    shown = marked(one, inside)
    assert (shown[10, 20:55] == 255).all()
    assert (shown[9, 20:55] == 0).all()
    assert (shown[59, 20:55] == 255).all()
    assert (shown[15:25, 75:] == 100).all()  # the other segment is as it was
    outside = (rows - 1) * columns
    assert (marked(one, outside)[:60] == 100).all()


def test_all_but_a_cluster_is_dimmed(one: GalleryImage) -> None:
    shown, inside = lit(one, 1), one.clusters == 1
    assert np.array_equal(shown[inside], one.small[inside])
    assert np.all(shown[~inside] <= one.small[~inside] * 0.25)


def test_captions_say_what_is_seen(one: GalleryImage, segmenter: Segmenter) -> None:
    found = Survey(segmenter.description, (one,), 1, 0)
    (shot,) = typical(found, 0, 4)
    assert "&lt;i&gt;.jpg: patch that cluster 0 is surest of" in shot.html
    assert shot.caption == f"<i>.jpg, {100 * one.patches.sure[0]:.0f} %"
    (shot,) = borderline(found, 0, 4)
    assert shot.caption == f"nearly cluster {one.patches.rival[0]}"
    (shot,) = largest(found, 0, 4)
    assert shot.caption == f"<i>.jpg, {100 * one.shares[0]:.0f} %"
    absent = replace(one, shares=np.zeros(3, np.float32))
    assert largest(replace(found, seen=(absent,)), 0, 4) == []
    assert "<i>" not in grid("a", [shot])


def test_many_clusters_share_what_there_is_room_for() -> None:
    assert [per_row(count) for count in (1, 32, 64, PICTURED, 1000)] == [4, 4, 2, 1, 1]
