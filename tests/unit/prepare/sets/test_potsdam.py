"""The adapter of Potsdam."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trees import VALUES, colours_of, plant, plant_mosaics, save, values_of
from tests.unit.prepare.sets.contract import (
    check_classes,
    check_emptied,
    check_missing,
    check_value,
    check_void,
)
from usseg_ray.core.errors import UserError
from usseg_ray.data.decode import decode_image, decode_label
from usseg_ray.data.shards import Row
from usseg_ray.prepare.entries import ImageSet
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.meaning import Meaning
from usseg_ray.prepare.sets import find_set


@pytest.mark.parametrize(
    ("name", "classes", "things"),
    [
        ("potsdam3", 3, 0),
    ],
)
def test_classes_are_those_of_the_protocol(name: str, classes: int, things: int) -> None:
    check_classes(name, classes, things)


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [
        ("potsdam3", 4, "roads and cars"),
    ],
)
def test_label_values_mean_what_their_makers_say(name: str, value: int, label: str) -> None:
    check_value(name, value, label)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("potsdam3", 255),
    ],
)
def test_void_is_ignored(name: str, value: int) -> None:
    check_void(name, value)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("potsdam3", "labelled_test.txt"),
        ("potsdam3", "gt"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, missing: str) -> None:
    check_missing(tmp_path, name, missing)


@pytest.mark.parametrize(
    ("name", "emptied"),
    [
        ("potsdam3", "labelled_test.txt"),
    ],
)
def test_a_split_without_images_is_an_error(tmp_path: Path, name: str, emptied: str) -> None:
    check_emptied(tmp_path, name, emptied)


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    (plant(tmp_path, "potsdam3") / "labelled_train.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(UserError, match=r"labelled_train\.txt: not UTF-8 text"):
        find_set("potsdam3").discover(tmp_path)


def test_a_name_listed_twice_is_one_image(tmp_path: Path) -> None:
    (plant(tmp_path, "potsdam3") / "labelled_test.txt").write_text("3_0_0\n4_0_0\n3_0_0\n")
    test = find_set("potsdam3").discover(tmp_path).splits["test"]
    assert [entry.id for entry in test] == ["3_0_0", "4_0_0"]


def test_tiles_may_be_unpacked(tmp_path: Path) -> None:
    root = plant(tmp_path, "potsdam3")
    colours, values = colours_of(7), values_of(0, VALUES["potsdam3"])
    for folder in ("imgs", "gt"):
        (root / folder / "3_0_0.mat").unlink()
    save(root / "imgs" / "3_0_0.tif", np.dstack([colours, colours[..., 0]]))
    save(root / "gt" / "3_0_0.png", values)
    benchmark = find_set("potsdam3")
    entries = benchmark.discover(root).splits["test"]
    row = next(iter(Inspector(Meaning(3, 255, benchmark.class_of)).rows(entries)))
    assert np.array_equal(decode_image(row.image), colours)
    assert row.label is not None
    expected = [benchmark.class_of[value] for value in values[0].tolist()]
    assert decode_label(row.label)[0].tolist() == expected


def rows_of(images: ImageSet) -> dict[str, Row]:
    inspector = Inspector(images.meaning)
    rows = {row.id: row for row in inspector.rows(images.entries)}
    assert inspector.problems == []
    return rows


def test_mosaics_of_potsdam_are_halved_and_cut(tmp_path: Path) -> None:
    images = find_set("potsdam3").discover(plant_mosaics(tmp_path, 1000))
    rows = rows_of(images)
    # Of 1000 pixels a side 800 make two tiles, the rest none; 2_13 is not among IIC's.
    places = [f"{row:02d}_{column:02d}" for row in range(2) for column in range(2)]
    assert sorted(rows) == [f"{mosaic}_{place}" for mosaic in ("2_10", "7_9") for place in places]
    assert {split: len(entries) for split, entries in images.splits.items()} == {
        "train": 4,
        "val": 3,
        "test": 1,
    }
    assert "not IIC's draw" in images.origins["test"]
    whole = np.array(Image.open(tmp_path / "4_Ortho_RGBIR" / "top_potsdam_7_9_RGBIR.tif"))
    painted = np.array(Image.open(tmp_path / "5_Labels_all" / "top_potsdam_7_9_label.tif"))
    row = rows["7_9_01_00"]
    assert (row.height, row.width) == (200, 200)
    tile = decode_image(row.image)
    # Row 3 and column 5 of the tile are rows 406, 407 and columns 10, 11 of the mosaic.
    four = whole[406:408, 10:12, :3].astype(int)
    assert tile[3, 5].tolist() == ((four.sum(axis=(0, 1)) + 2) // 4).tolist()
    assert row.label is not None
    pairs = {
        (255, 255, 255): "roads and cars",
        (255, 255, 0): "roads and cars",
        (0, 0, 255): "buildings and clutter",
        (255, 0, 0): "buildings and clutter",
        (0, 255, 255): "vegetation and trees",
        (0, 255, 0): "vegetation and trees",
    }
    found = decode_label(row.label)
    for down, right in ((3, 5), (0, 0), (199, 199), (100, 17)):
        colour = tuple(painted[400 + 2 * down, 2 * right].tolist())
        assert images.classes[found[down, right]] == pairs[colour]


def test_mosaics_without_infrared_give_the_same_tiles(tmp_path: Path) -> None:
    plant_mosaics(tmp_path)
    first = rows_of(find_set("potsdam3").discover(tmp_path))
    shutil.rmtree(tmp_path / "4_Ortho_RGBIR")
    # As one of the archives unpacks where each gets a folder.
    (tmp_path / "2_Ortho_RGB").rename(tmp_path / "inner")
    (tmp_path / "2_Ortho_RGB").mkdir()
    (tmp_path / "inner").rename(tmp_path / "2_Ortho_RGB" / "2_Ortho_RGB")
    (tmp_path / "5_Labels_all").rename(tmp_path / "5_Labels_for_participants")
    assert rows_of(find_set("potsdam3").discover(tmp_path)) == first


def test_a_map_in_a_colour_of_no_class_is_a_bad_label(tmp_path: Path) -> None:
    path = plant_mosaics(tmp_path) / "5_Labels_all" / "top_potsdam_7_9_label.tif"
    painted = np.array(Image.open(path))
    painted[:2, :2] = (255, 0, 255)
    Image.fromarray(painted).save(path)
    images = find_set("potsdam3").discover(tmp_path)
    inspector = Inspector(images.meaning)
    assert len(list(inspector.rows(images.entries))) == 8
    (problem,) = inspector.problems
    assert (problem.id, problem.kind) == ("7_9_00_00", "label")
    assert "value 261 is no label of this data set (1 pixels)" in problem.reason


@pytest.mark.parametrize(
    "missing", ["4_Ortho_RGBIR/top_potsdam_7_9_RGBIR.tif", "5_Labels_for_participants"]
)
def test_what_is_missing_among_mosaics_is_named(tmp_path: Path, missing: str) -> None:
    plant_mosaics(tmp_path)
    if missing.endswith(".tif"):
        (tmp_path / missing).unlink()
    else:
        shutil.rmtree(tmp_path / "5_Labels_all")
    with pytest.raises(UserError) as caught:
        find_set("potsdam3").discover(tmp_path)
    assert f"needs {tmp_path / missing}, which is not there" in str(caught.value)


def test_a_mosaic_that_is_no_picture_is_named(tmp_path: Path) -> None:
    path = plant_mosaics(tmp_path) / "4_Ortho_RGBIR" / "top_potsdam_7_9_RGBIR.tif"
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"top_potsdam_7_9_RGBIR\.tif: cannot be read \(not a JPEG"):
        find_set("potsdam3").discover(tmp_path)


def test_all_mosaics_give_the_numbers_of_iic(tmp_path: Path) -> None:
    # Headers alone are read, so white sheets of the real size will do.
    sheet = tmp_path / "sheet.tif"
    Image.new("1", (6000, 6000), 1).save(sheet, compression="group4")
    for row, columns in ((2, 3), (3, 3), (4, 3), (5, 3), (6, 6), (7, 6)):
        for column in range(13 - columns, 13):
            for place, ending in (("2_Ortho_RGB", "RGB"), ("5_Labels_all", "label")):
                path = tmp_path / place / f"top_potsdam_{row}_{column}_{ending}.tif"
                path.parent.mkdir(exist_ok=True)
                path.hardlink_to(sheet)
    images = find_set("potsdam3").discover(tmp_path)
    assert {split: len(entries) for split, entries in images.splits.items()} == images.expected
