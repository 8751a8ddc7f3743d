import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trees import VALUES, colours_of, plant, plant_mosaics, save, values_of
from usseg_ray.core.errors import UserError
from usseg_ray.data.decode import decode_image, decode_label
from usseg_ray.data.shards import Row
from usseg_ray.prepare.entries import ImageSet
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.meaning import Meaning
from usseg_ray.prepare.sets import BENCHMARKS, get
from usseg_ray.prepare.sets.base import held_out

NAMES = sorted(BENCHMARKS)


@pytest.mark.parametrize("name", NAMES)
def test_a_miniature_is_found_and_readable(tmp_path: Path, name: str) -> None:
    images = get(name).discover(plant(tmp_path, name))
    splits = images.splits
    assert list(splits) == ["train", "val", "test"]
    inspector = Inspector(images.meaning)
    rows = list(inspector.rows(images.entries))
    assert inspector.problems == []
    assert len(rows) == len(images.entries)
    assert all(row.label is not None for row in rows)
    assert (rows[0].height, rows[0].width) == (6, 8)


@pytest.mark.parametrize("name", NAMES)
def test_images_that_rank_and_images_that_are_scored_are_apart(tmp_path: Path, name: str) -> None:
    splits = get(name).discover(plant(tmp_path, name)).splits
    files = [{entry.image for entry in entries} for entries in splits.values()]
    assert sum(map(len, files)) == len(set.union(*files))
    assert all(files)


@pytest.mark.parametrize("name", NAMES)
def test_every_class_is_reached_and_nothing_else(name: str) -> None:
    benchmark = get(name)
    assert set(benchmark.class_of.values()) - {255} == set(range(len(benchmark.classes)))
    assert set(benchmark.class_of) >= set(VALUES[name])
    assert len(set(benchmark.classes)) == len(benchmark.classes)
    assert set(benchmark.things) <= set(benchmark.classes)
    assert benchmark.palette is None or len(benchmark.palette) == len(benchmark.classes)
    assert benchmark.origins.keys() == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("name", "classes", "things"),
    [
        ("cocostuff27", 27, 12),
        ("cocostuff27-curated", 27, 12),
        ("cocostuff81", 81, 80),
        ("cocostuff171", 171, 80),
        ("cityscapes27", 27, 10),
        ("cityscapes19", 19, 8),
        ("potsdam3", 3, 0),
        ("voc2012", 21, 20),
        ("camvid", 11, 0),
    ],
)
def test_classes_are_those_of_the_protocol(name: str, classes: int, things: int) -> None:
    benchmark = get(name)
    assert (len(benchmark.classes), len(benchmark.things)) == (classes, things)


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [
        ("cocostuff27", 0, "person"),
        ("cocostuff27", 181, "solid"),
        ("cocostuff27", 105, "sky"),
        ("cocostuff81", 0, "person"),
        ("cocostuff81", 89, "toothbrush"),
        ("cocostuff81", 91, "stuff"),
        ("cocostuff171", 12, "stop sign"),
        ("cocostuff171", 91, "banner"),
        ("cocostuff171", 181, "wood"),
        ("cityscapes27", 7, "road"),
        ("cityscapes27", 33, "bicycle"),
        ("cityscapes19", 11, "building"),
        ("cityscapes19", 33, "bicycle"),
        ("potsdam3", 4, "roads and cars"),
        ("voc2012", 15, "person"),
        ("camvid", 8, "car"),
    ],
)
def test_label_values_mean_what_their_makers_say(name: str, value: int, label: str) -> None:
    benchmark = get(name)
    assert benchmark.classes[benchmark.class_of[value]] == label


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cocostuff27", 255),
        ("cityscapes27", 6),
        ("cityscapes27", 255),
        ("cityscapes19", 9),
        ("potsdam3", 255),
        ("voc2012", 255),
        ("camvid", 11),
    ],
)
def test_void_is_ignored(name: str, value: int) -> None:
    assert get(name).class_of[value] == 255


def test_labels_become_class_indices(tmp_path: Path) -> None:
    images = get("cityscapes19").discover(plant(tmp_path, "cityscapes19"))
    inspector = Inspector(images.meaning)
    row = next(iter(inspector.rows(images.splits["test"])))
    assert row.label is not None
    found = decode_label(row.label).flatten()[: len(VALUES["cityscapes19"])].tolist()
    void = 255
    ground_and_walls = [0, 1, void, void, 2, 3, 4, void, void, void]
    objects_and_nature = [5, void, 6, 7, 8, 9, 10]
    moving = [11, 12, 13, 14, 15, void, void, 16, 17, 18]
    assert found == [void] * 7 + ground_and_walls + objects_and_nature + moving + [void]


def test_an_unknown_label_value_is_named_and_its_image_kept(tmp_path: Path) -> None:
    images = get("voc2012").discover(plant(tmp_path, "voc2012"))
    inspector = Inspector(Meaning(21, 255, {value: value for value in range(20)} | {255: 255}))
    rows = list(inspector.rows(images.entries))
    assert len(rows) == len(images.entries)
    assert inspector.problems
    assert inspector.problems[0].reason.startswith("value 20 is no label of this data set (")


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("cocostuff27", "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"),
        ("cocostuff27-curated", "curated/train2017/Coco164kFull_Stuff_Coarse_7.txt"),
        ("cocostuff81", "curated/train2017/Coco164kFull_Stuff_Coarse.txt"),
        ("cocostuff27", "annotations/val2017"),
        ("cityscapes27", "leftImg8bit/val"),
        ("cityscapes27", "gtFine/train"),
        ("potsdam3", "labelled_test.txt"),
        ("potsdam3", "gt"),
        ("voc2012", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"),
        ("camvid", "valannot"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, missing: str) -> None:
    root = plant(tmp_path / "here", name)
    (root / missing).rename(tmp_path / "moved")
    with pytest.raises(UserError) as caught:
        get(name).discover(root)
    message = str(caught.value)
    assert f"{name} needs {root.resolve() / missing}, which is not there" in message
    assert "Expected: " in message
    assert "Get it from " in message


@pytest.mark.parametrize(
    ("name", "emptied"),
    [
        ("cocostuff27", "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"),
        ("potsdam3", "labelled_test.txt"),
        ("cityscapes27", "leftImg8bit/val"),
        ("camvid", "test"),
    ],
)
def test_a_split_without_images_is_an_error(tmp_path: Path, name: str, emptied: str) -> None:
    place = plant(tmp_path, name) / emptied
    if place.is_dir():
        shutil.rmtree(place)
        place.mkdir()
    else:
        place.write_text("\n")
    with pytest.raises(UserError, match=rf"{name} has no image for its split 'test' \(.*\)"):
        get(name).discover(tmp_path)


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    (plant(tmp_path, "potsdam3") / "labelled_train.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(UserError, match=r"labelled_train\.txt: not UTF-8 text"):
        get("potsdam3").discover(tmp_path)


def test_a_name_listed_twice_is_one_image(tmp_path: Path) -> None:
    (plant(tmp_path, "potsdam3") / "labelled_test.txt").write_text("3_0_0\n4_0_0\n3_0_0\n")
    test = get("potsdam3").discover(tmp_path).splits["test"]
    assert [entry.id for entry in test] == ["3_0_0", "4_0_0"]


def test_tiles_may_be_unpacked(tmp_path: Path) -> None:
    root = plant(tmp_path, "potsdam3")
    colours, values = colours_of(7), values_of(0, VALUES["potsdam3"])
    for folder in ("imgs", "gt"):
        (root / folder / "3_0_0.mat").unlink()
    save(root / "imgs" / "3_0_0.tif", np.dstack([colours, colours[..., 0]]))
    save(root / "gt" / "3_0_0.png", values)
    benchmark = get("potsdam3")
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
    images = get("potsdam3").discover(plant_mosaics(tmp_path, 1000))
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
    first = rows_of(get("potsdam3").discover(tmp_path))
    shutil.rmtree(tmp_path / "4_Ortho_RGBIR")
    # As one of the archives unpacks where each gets a folder.
    (tmp_path / "2_Ortho_RGB").rename(tmp_path / "inner")
    (tmp_path / "2_Ortho_RGB").mkdir()
    (tmp_path / "inner").rename(tmp_path / "2_Ortho_RGB" / "2_Ortho_RGB")
    (tmp_path / "5_Labels_all").rename(tmp_path / "5_Labels_for_participants")
    assert rows_of(get("potsdam3").discover(tmp_path)) == first


def test_a_map_in_a_colour_of_no_class_is_a_bad_label(tmp_path: Path) -> None:
    path = plant_mosaics(tmp_path) / "5_Labels_all" / "top_potsdam_7_9_label.tif"
    painted = np.array(Image.open(path))
    painted[:2, :2] = (255, 0, 255)
    Image.fromarray(painted).save(path)
    images = get("potsdam3").discover(tmp_path)
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
        get("potsdam3").discover(tmp_path)
    assert f"needs {tmp_path / missing}, which is not there" in str(caught.value)


def test_a_mosaic_that_is_no_picture_is_named(tmp_path: Path) -> None:
    path = plant_mosaics(tmp_path) / "4_Ortho_RGBIR" / "top_potsdam_7_9_RGBIR.tif"
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"top_potsdam_7_9_RGBIR\.tif: cannot be read \(not a JPEG"):
        get("potsdam3").discover(tmp_path)


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
    images = get("potsdam3").discover(tmp_path)
    assert {split: len(entries) for split, entries in images.splits.items()} == images.expected


def test_the_curated_set_learns_from_fewer_images(tmp_path: Path) -> None:
    root = plant(tmp_path, "cocostuff27")
    full, curated = (get(f"cocostuff27{end}").discover(root) for end in ("", "-curated"))
    learnt, fewer = (
        {entry.id for split in ("train", "val") for entry in images.splits[split]}
        for images in (full, curated)
    )
    assert fewer < learnt
    assert curated.splits["test"] == full.splits["test"]


def test_an_unknown_set_is_told_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match=r"did you mean 'cityscapes\d\d'\? Known: cocostuff27, "):
        get("cityscape")


def test_what_is_held_out_follows_from_the_names() -> None:
    names = [f"image_{index}" for index in range(1000)]
    train, val = held_out(names)
    assert (len(train), len(val)) == (950, 50)
    assert sorted(train + val) == sorted(names)
    assert held_out(reversed(names)) == (train, val)
    assert len(held_out([str(index) for index in range(20_000)])[1]) == 500
    assert [len(part) for part in held_out(["a", "b", "c"])] == [2, 1]


@pytest.mark.parametrize("name", ["camvid", "cityscapes27", "potsdam3"])
def test_what_a_mac_leaves_beside_files_is_passed_over(tmp_path: Path, name: str) -> None:
    root = plant(tmp_path, name)
    before = get(name).discover(root)
    pictures = [path for path in root.rglob("*.*") if path.suffix in (".png", ".mat", ".tif")]
    for path in pictures:
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    found = get(name).discover(root)
    assert found.entries == before.entries
    assert found.notes == (f"{len(pictures)} files passed over: hidden {len(pictures)}.",)
