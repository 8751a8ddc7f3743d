"""Pictures have the right parts, stable colours, and the same bytes every time."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from usseg_ray.config import UserError
from usseg_ray.pictures import (
    colour_for,
    confusion_figure,
    matched_ids,
    mosaic,
    per_class_bars,
    save,
)

CLASSES = ("sky", "road", "tree")
PALETTE = colour_for(CLASSES)
HEIGHT, WIDTH = 240, 320  # wide enough to be shown pixel for pixel
MARGIN, GUTTER, HEAD = 20, 8, 30


def scene(label: int, count: int = 2) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return images, np.full((count, HEIGHT, WIDTH), label)


def cell(picture: Image.Image, row: int, column: int) -> NDArray[np.uint8]:
    left = MARGIN + column * (WIDTH + GUTTER)
    top = MARGIN + HEAD + row * (HEIGHT + GUTTER)
    return np.asarray(picture)[top : top + HEIGHT, left : left + WIDTH]


def tones(pixels: NDArray[np.uint8]) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


def test_a_data_sets_own_palette_is_kept() -> None:
    own = [[128, 128, 128], [128, 64, 128], [0, 0, 0]]
    assert colour_for(CLASSES, own).tolist() == own
    assert colour_for(CLASSES, own).dtype == np.uint8


@pytest.mark.parametrize("palette", [[[0, 0, 0]], [[0, 0, 0], [1, 1], [2, 2, 2]]])
def test_a_palette_of_the_wrong_size_is_refused(palette: list[list[int]]) -> None:
    with pytest.raises(UserError, match="RGB colours for 3 classes"):
        colour_for(CLASSES, palette)


def test_more_classes_never_change_the_first_colours() -> None:
    many = colour_for([str(index) for index in range(40)])
    for count in (1, 8, 12, 27):
        assert np.array_equal(colour_for([str(index) for index in range(count)]), many[:count])


def test_generated_colours_stay_apart_from_each_other_and_from_grey() -> None:
    colours = colour_for([str(index) for index in range(30)]).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).max(axis=-1) + 255 * np.eye(30, dtype=int)
    assert apart.min() >= 20
    assert (colours.max(axis=1) - colours.min(axis=1)).min() >= 40


def test_clusters_are_renamed_by_class_and_the_spare_ones_numbered_on() -> None:
    assert matched_ids(np.array([2, -1, 0, -1, 1]), 3).tolist() == [2, 3, 0, 4, 1]
    assert matched_ids(np.array([4, 0]), 5).tolist() == [4, 0]


def test_a_mosaic_shows_image_truth_and_prediction_in_the_classes_colours() -> None:
    images, truth = scene(1)
    picture = mosaic(images, truth, truth + 1, classes=CLASSES, palette=PALETTE)
    assert picture.width == 2 * MARGIN + 3 * WIDTH + 2 * GUTTER
    for row in range(2):
        assert np.array_equal(cell(picture, row, 0), images[row])
        assert tones(cell(picture, row, 1)) == {tuple(PALETTE[1].tolist())}
        assert tones(cell(picture, row, 2)) == {tuple(PALETTE[2].tolist())}


def test_without_ground_truth_there_are_two_columns() -> None:
    images, prediction = scene(0)
    picture = mosaic(images, None, prediction, classes=CLASSES, palette=PALETTE)
    assert picture.width == 2 * MARGIN + 2 * WIDTH + GUTTER
    assert tones(cell(picture, 0, 1)) == {tuple(PALETTE[0].tolist())}


def test_a_cluster_without_a_class_looks_like_no_class_and_like_no_other_cluster() -> None:
    images, prediction = scene(0, count=12)
    prediction += len(CLASSES) + np.arange(12)[:, None, None]
    picture = mosaic(images, None, prediction, classes=CLASSES, palette=PALETTE)
    cells = [cell(picture, row, 1) for row in range(12)]
    assert all(red == green == blue for part in cells for red, green, blue in tones(part))
    assert all(len(tones(part)) == 2 for part in cells), "hatched, not plain"
    assert len({part.tobytes() for part in cells}) == 12


def test_an_ignore_index_next_to_the_classes_is_no_cluster() -> None:
    images, ids = scene(len(CLASSES))
    picture = mosaic(images, ids, ids, classes=CLASSES, palette=PALETTE, ignore_index=len(CLASSES))
    assert (255, 255, 255) in tones(cell(picture, 0, 1))
    assert (255, 255, 255) not in tones(cell(picture, 0, 2))


def test_the_legend_names_what_is_in_the_picture() -> None:
    images, truth = scene(1)

    def legend(prediction: NDArray[np.int64]) -> set[tuple[int, ...]]:
        picture = mosaic(images, truth, prediction, classes=CLASSES, palette=PALETTE)
        return tones(np.asarray(picture)[MARGIN + HEAD + 2 * HEIGHT + GUTTER :])

    sky, road, tree = (tuple(colour) for colour in PALETTE.tolist())
    assert {road, sky} < legend(np.zeros_like(truth))
    assert tree not in legend(np.zeros_like(truth))
    assert {road, tree} < legend(np.full_like(truth, 2))


def test_a_legend_too_wide_for_one_row_takes_more() -> None:
    images, prediction = scene(0, count=1)
    names = [f"a rather long class name {index}" for index in range(12)]
    prediction[0, :12] = np.arange(12)[:, None]
    palette = colour_for(names)
    short = mosaic(images, None, prediction % 2, classes=names, palette=palette)
    long = mosaic(images, None, prediction, classes=names, palette=palette)
    assert long.width == short.width
    assert long.height > short.height
    assert {tuple(colour) for colour in palette.tolist()} < tones(
        np.asarray(long)[MARGIN + HEAD + HEIGHT :]
    )


def test_small_images_are_enlarged_and_a_caption_adds_a_line() -> None:
    images, prediction = scene(0)
    small = mosaic(
        images[:, :60, :80], None, prediction[:, :60, :80], classes=CLASSES, palette=PALETTE
    )
    plain = mosaic(images, None, prediction, classes=CLASSES, palette=PALETTE)
    assert small.size == plain.size
    captioned = mosaic(
        images, None, prediction, classes=CLASSES, palette=PALETTE, caption="val, 31.2 mIoU " * 20
    )
    assert captioned.width == plain.width
    assert captioned.height > plain.height


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    images, truth = scene(1)
    counts = np.diag([5, 6, 7]).astype(np.int64)
    for name in ("first", "second"):
        folder = tmp_path / name
        picture = mosaic(images, truth, truth, classes=CLASSES, palette=PALETTE, caption="val")
        save(picture, folder / "mosaic.png")
        save(confusion_figure(counts, CLASSES), folder / "confusion.png")
        save(per_class_bars(np.array([50.0, np.nan, 3.0]), CLASSES), folder / "bars.png")
    for file in ("mosaic.png", "confusion.png", "bars.png"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


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
        return np.array([(pixels == colour).all(axis=1).sum() for colour in PALETTE])

    sky, road, tree = painted([80.0, 40.0, np.nan])
    assert sky == pytest.approx(2 * road, rel=0.05)
    assert tree < road / 10
    assert painted([np.nan] * 3).max() < road / 10


def test_saving_leaves_the_whole_picture_or_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "mosaic.png"
    save(Image.new("RGB", (3, 2), "red"), path)
    with pytest.raises(OSError, match="CMYK"):
        save(Image.new("CMYK", (9, 9)), path)
    with Image.open(path) as kept:
        assert kept.size == (3, 2)
    assert [file.name for file in path.parent.iterdir()] == ["mosaic.png"]
