"""Charts show what they are given, with room for it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from usseg_ray.pictures.charts import confusion_figure, per_class_bars
from usseg_ray.pictures.palettes import colour_for

CLASSES = ("sky", "road", "tree")


def test_a_confusion_figure_shows_shares_of_rows() -> None:
    counts = np.array([[8, 2, 0], [0, 0, 0], [1, 1, 2], [3, 0, 9]])
    drawn = confusion_figure(counts, CLASSES).tobytes()
    assert confusion_figure(counts * np.array([[1], [1], [50], [7]]), CLASSES).tobytes() == drawn
    assert confusion_figure(counts[[2, 1, 0, 3]], CLASSES).tobytes() != drawn


@pytest.mark.parametrize("count", [8, 30])
def test_a_confusion_figure_has_room_for_its_classes(count: int) -> None:
    names = [f"class {index}" for index in range(count)]
    width, height = confusion_figure(np.eye(count + 2, count, dtype=np.int64), names).size
    assert 35 * count < height < 1.3 * width
    assert width < 2200


def test_bars_are_as_long_as_their_scores() -> None:
    def painted(iou: list[float]) -> NDArray[np.int64]:
        pixels = np.asarray(per_class_bars(np.array(iou), CLASSES)).reshape(-1, 3)
        return np.array([(pixels == colour).all(axis=1).sum() for colour in colour_for(CLASSES)])

    sky, road, tree = painted([80.0, 40.0, np.nan])
    assert sky == pytest.approx(2 * road, rel=0.05)
    assert tree < road / 10
    assert painted([np.nan] * 3).max() < road / 10


def test_the_same_scores_give_the_same_pixels() -> None:
    counts, iou = np.diag([5, 6, 7]).astype(np.int64), np.array([50.0, np.nan, 3.0])
    assert confusion_figure(counts, CLASSES) == confusion_figure(counts, CLASSES)
    assert per_class_bars(iou, CLASSES) == per_class_bars(iou, CLASSES)


def test_a_matrix_shows_nothing_of_the_one_before() -> None:
    counts, others = np.diag([5, 6, 7]).astype(np.int64), np.full((3, 3), 9)
    drawn = confusion_figure(counts, CLASSES)
    for other in (others, np.zeros((3, 3), np.int64), np.full((4, 3), 9)):
        assert confusion_figure(other, CLASSES) != drawn
        assert confusion_figure(counts, CLASSES) == drawn
    renamed = confusion_figure(counts, ("sky", "road", "sea"))
    assert renamed.size == drawn.size
    assert renamed != drawn


def test_a_class_of_any_name_is_drawn() -> None:
    names = (r"$\frac$", "$a", r"\x1b[0m")
    assert confusion_figure(np.eye(3, dtype=np.int64), names).size
    assert per_class_bars(np.array([50.0, 20.0, 10.0]), names).size
