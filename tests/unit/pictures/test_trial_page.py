import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluations import CONFUSION, TRUTH, evaluation_of, examples, files_below, scored
from usseg_ray.core.records import DamagedError
from usseg_ray.pictures.palettes import matched_ids
from usseg_ray.pictures.trial_page import EXAMPLES, draw, try_to_draw
from usseg_ray.scoring.arrays import ARRAYS, write_evaluation
from usseg_ray.scoring.evaluation import FIXED_EXAMPLES
from usseg_ray.scoring.metrics import score


def test_without_an_evaluation_nothing_is_files_below(tmp_path: Path) -> None:
    draw(tmp_path, TRUTH, None, "a caption")
    assert files_below(tmp_path) == set()


def test_what_cannot_be_drawn_is_said_and_ends_nothing(tmp_path: Path) -> None:
    write_evaluation(scored(), tmp_path)
    assert try_to_draw(tmp_path, TRUTH, None, "a caption") == ""
    whole = (tmp_path / ARRAYS).read_bytes()
    (tmp_path / ARRAYS).write_bytes(whole[: len(whole) // 2])
    assert f"{tmp_path / ARRAYS} is damaged" in try_to_draw(tmp_path, TRUTH, None, "a caption")
    with pytest.raises(DamagedError, match="is damaged"):
        draw(tmp_path, TRUTH, None, "a caption")


def test_a_scored_evaluation_leaves_pictures_and_tables(tmp_path: Path) -> None:
    write_evaluation(scored(), tmp_path / "trial")
    draw(tmp_path / "trial", TRUTH, ((1, 2, 3), (40, 50, 60), (200, 9, 9)), "a caption")
    assert files_below(tmp_path / "trial") == {
        ARRAYS,
        EXAMPLES,
        "confusion.csv",
        "per_class.json",
        "pictures/mosaic.png",
        "pictures/clusters.png",
        "pictures/confusion.png",
        "pictures/per_class.png",
    }
    for name in ("mosaic", "confusion", "per_class", "clusters"):
        with Image.open(tmp_path / "trial" / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 100


def test_the_first_images_are_kept_for_others_to_compare(tmp_path: Path) -> None:
    evaluation = scored(count=5)
    write_evaluation(evaluation, tmp_path)
    draw(tmp_path, TRUTH, ((1, 2, 3), (40, 50, 60), (200, 9, 9)), "a caption")
    with np.load(tmp_path / EXAMPLES) as file:
        kept = dict(file)
    first = slice(FIXED_EXAMPLES)
    assert kept["pixels"].tolist() == np.array(evaluation.examples.pixels)[first].tolist()
    assert kept["labels"].tolist() == np.array(evaluation.examples.labels)[first].tolist()
    names = matched_ids(score(CONFUSION).class_of, 3)
    clusters = np.array(evaluation.examples.clusters)[first]
    assert kept["predicted"].tolist() == names[clusters].tolist()
    assert kept["classes"].tolist() == ["sky", "road", "rare"]
    assert kept["palette"].tolist() == [[1, 2, 3], [40, 50, 60], [200, 9, 9]]


def test_tables_are_in_the_order_of_the_classes(tmp_path: Path) -> None:
    write_evaluation(scored(), tmp_path)
    draw(tmp_path, TRUTH, None, "a caption")
    table = json.loads((tmp_path / "per_class.json").read_text())
    assert [row["class"] for row in table] == ["sky", "road", "rare"]
    assert [row["pixels"] for row in table] == [7, 13, 0]
    assert table[0]["iou"] == pytest.approx(100 * 5 / 8)
    assert table[2]["iou"] is None
    with (tmp_path / "confusion.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["matched cluster", "sky", "road", "rare"]
    # Every cluster stands at its class; the one without a class comes last, and none is lost.
    assert rows[0] == ["sky", "5", "1", "0"]
    assert rows[1] == ["road", "0", "9", "0"]
    assert {tuple(row[1:]) for row in rows[2:]} == {("0", "0", "0"), ("2", "3", "0")}
    assert rows[3][0] == "unmatched 1"


def test_fewer_clusters_than_classes(tmp_path: Path) -> None:
    evaluation = scored(np.array([[4, 0, 1], [0, 6, 0]]))
    for clusters in evaluation.examples.clusters:
        clusters[:] %= 2
    write_evaluation(evaluation, tmp_path)
    draw(tmp_path, TRUTH, None, "a caption")
    table = json.loads((tmp_path / "per_class.json").read_text())
    assert [row["iou"] for row in table] == pytest.approx([80, 100, 0])


def test_an_unlabelled_evaluation_leaves_a_mosaic(tmp_path: Path) -> None:
    write_evaluation(evaluation_of({}, examples(labelled=False)), tmp_path)
    draw(tmp_path, None, None, "a caption")
    assert files_below(tmp_path) == {ARRAYS, "pictures/mosaic.png", "pictures/clusters.png"}


def test_a_worker_without_images_of_its_own_still_has_its_tables(tmp_path: Path) -> None:
    write_evaluation(scored(count=0), tmp_path)
    draw(tmp_path, TRUTH, None, "a caption")
    assert files_below(tmp_path) >= {"per_class.json", "confusion.csv", "pictures/confusion.png"}
    assert "pictures/mosaic.png" not in files_below(tmp_path)


def test_the_same_evaluation_gives_the_same_pictures(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_evaluation(scored(), tmp_path / name)
        draw(tmp_path / name, TRUTH, None, "a caption")
    for picture in (tmp_path / "one" / "pictures").iterdir():
        other = tmp_path / "other" / "pictures" / picture.name
        assert picture.read_bytes() == other.read_bytes()
