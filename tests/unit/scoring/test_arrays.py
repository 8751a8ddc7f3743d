from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.evaluations import CONFUSION, COUNTS, files_below, scored
from usseg_ray.scoring.arrays import ARRAYS, read_counts, write_counts, write_evaluation
from usseg_ray.scoring.metrics import score


def test_a_later_evaluation_replaces_the_earlier(tmp_path: Path) -> None:
    write_evaluation(scored(), tmp_path)
    write_evaluation(scored(2 * CONFUSION), tmp_path)
    with np.load(tmp_path / ARRAYS) as file:
        assert np.array_equal(file["confusion"], 2 * CONFUSION)
        assert file["unsup_miou"] == score(CONFUSION).unsup_miou
    assert files_below(tmp_path) == {ARRAYS}


def test_all_that_pictures_are_drawn_from_is_written(tmp_path: Path) -> None:
    one = scored()
    assert one.scores is not None
    write_evaluation(one, tmp_path)
    expected = {
        **{name: getattr(one.examples, name) for name in ("pixels", "clusters", "labels")},
        "captions": one.examples.captions,
        "patches": one.patches.pixels,
        "found": one.patches.found,
        "fixed": one.fixed,
        **{name: getattr(one.scores, name) for name in ("confusion", "class_of", "iou")},
        "unsup_miou": one.scores.unsup_miou,
    }
    with np.load(tmp_path / ARRAYS) as file:
        assert set(file) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(file[name], np.array(array), name)


def test_counts_of_images_come_back_in_the_order_of_the_split(tmp_path: Path) -> None:
    one = scored()
    write_counts(replace(one, numbers=np.array([1, 0])), tmp_path)
    found = read_counts(tmp_path)
    assert found.intersection.tolist() == COUNTS.intersection[::-1].tolist()
    assert found.predicted.tolist() == COUNTS.predicted[::-1].tolist()
    assert found.actual.tolist() == COUNTS.actual[::-1].tolist()


def test_without_ground_truth_there_are_no_counts(tmp_path: Path) -> None:
    write_counts(replace(scored(), counts=None), tmp_path)
    assert not list(tmp_path.iterdir())
