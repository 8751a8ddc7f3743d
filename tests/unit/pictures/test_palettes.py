"""Colours are a data set's own, or stay apart from each other for every eye."""

import numpy as np
import pytest
from numpy.typing import NDArray

from usseg_ray.core.errors import UserError
from usseg_ray.pictures.palettes import colour_for, matched_ids, paint

CLASSES = ("sky", "road", "tree")


def numbered(count: int) -> NDArray[np.uint8]:
    return colour_for([str(index) for index in range(count)])


def closest(colours: NDArray[np.float64]) -> float:
    apart = np.abs(colours[:, None] - colours[None]).max(axis=-1)
    return float((apart + 255 * np.eye(len(colours))).min())


def test_a_data_sets_own_palette_is_kept() -> None:
    own = [[128, 128, 128], [128, 64, 128], [0, 0, 0]]
    assert colour_for(CLASSES, own).tolist() == own
    assert colour_for(CLASSES, own).dtype == np.uint8


@pytest.mark.parametrize("palette", [[[0, 0, 0]], [[0, 0, 0], [1, 1], [2, 2, 2]]])
def test_a_palette_of_the_wrong_size_is_refused(palette: list[list[int]]) -> None:
    with pytest.raises(UserError, match="RGB colours for 3 classes"):
        colour_for(CLASSES, palette)


def test_more_classes_never_change_the_first_colours() -> None:
    for count in (1, 8, 12, 27):
        assert np.array_equal(numbered(count), numbered(40)[:count])


def test_generated_colours_stay_apart_from_each_other_and_from_grey() -> None:
    colours = numbered(30).astype(float)
    assert closest(colours) >= 20
    assert (colours.max(axis=1) - colours.min(axis=1)).min() >= 40


@pytest.mark.parametrize(
    "seen",
    [
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    ],
    ids=["deuteranopia", "protanopia"],
)
def test_generated_colours_stay_apart_without_green_or_red_cones(seen: list[list[float]]) -> None:
    linear = (numbered(27) / 255) ** 2.2 @ np.array(seen).T
    colours = 255 * np.clip(linear, 0, 1) ** (1 / 2.2)
    assert closest(colours[:8]) >= 40
    assert closest(colours) >= 15


def test_clusters_are_renamed_by_class_and_the_spare_ones_numbered_on() -> None:
    assert matched_ids(np.array([2, -1, 0, -1, 1]), 3).tolist() == [2, 3, 0, 4, 1]
    assert matched_ids(np.array([4, 0]), 5).tolist() == [4, 0]


def test_label_maps_are_painted_by_class() -> None:
    palette = colour_for(CLASSES)
    ids = np.array([[0, 2], [1, 1]])
    assert np.array_equal(paint(ids, palette), palette[ids])


def test_many_clusters_without_a_class_have_a_hatch_of_their_own_each() -> None:
    hatches = {
        paint(np.full((22, 22), 3 + index), colour_for(CLASSES)).tobytes() for index in range(48)
    }
    assert len(hatches) == 48


def test_pixels_without_ground_truth_are_painted_only_where_they_may_be() -> None:
    palette = colour_for(CLASSES)
    ids = np.full((8, 8), 3)
    assert (paint(ids, palette, 3) == 255).any()
    assert not (paint(ids, palette) == 255).any()
