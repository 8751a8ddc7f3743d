"""Pictures have the right parts, stable colours, and the same bytes every time."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from usseg_ray.pictures.mosaic import gallery_figure, mosaic, save
from usseg_ray.pictures.palettes import colour_for, paint

CLASSES = ("sky", "road", "tree")
PALETTE = colour_for(CLASSES)
HEIGHT, WIDTH = 240, 320  # wide enough to be shown pixel for pixel
MARGIN, GUTTER, HEAD, ROW_LINE = 20, 8, 30, 24
SIDE = 32


def scene(label: int, count: int = 2) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return images, np.full((count, HEIGHT, WIDTH), label)


def cell(picture: Image.Image, row: int, column: int) -> NDArray[np.uint8]:
    left = MARGIN + column * (WIDTH + GUTTER)
    top = MARGIN + HEAD + row * (HEIGHT + GUTTER)
    return np.asarray(picture)[top : top + HEIGHT, left : left + WIDTH]


def tones(pixels: NDArray[np.uint8]) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


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


def test_captions_of_rows_lie_above_their_rows_and_move_nothing_else() -> None:
    images, truth = scene(1)

    def picture(rows: list[str] | None) -> NDArray[np.uint8]:
        return np.asarray(
            mosaic(images, truth, truth, classes=CLASSES, palette=PALETTE, rows=rows, caption="val")
        )

    plain, captioned = picture(None), picture(["best: 0001TP_008550, IoU 71.2", "worst"])
    assert captioned.shape[0] == plain.shape[0] + 2 * ROW_LINE
    head = MARGIN + 38 + HEAD
    assert np.array_equal(captioned[:head], plain[:head])
    for row in range(2):
        top = head + row * (HEIGHT + GUTTER)
        line = top + row * ROW_LINE
        assert tones(captioned[line : line + ROW_LINE, MARGIN:]) > {(255, 255, 255), (34, 34, 34)}
        moved = captioned[line + ROW_LINE :][: HEIGHT + GUTTER]
        assert np.array_equal(moved, plain[top : top + HEIGHT + GUTTER])
    end = head + 2 * HEIGHT + GUTTER
    assert np.array_equal(captioned[end + 2 * ROW_LINE :], plain[end:])


def test_a_long_caption_of_a_row_is_set_smaller() -> None:
    images, truth = scene(1, count=1)
    rows = ["worst: " + "a very long name " * 8]
    picture = mosaic(images, truth, truth, classes=CLASSES, palette=PALETTE, rows=rows)
    line = np.asarray(picture)[MARGIN + HEAD : MARGIN + HEAD + ROW_LINE]
    assert picture.width == 2 * MARGIN + 3 * WIDTH + 2 * GUTTER
    assert (line[:, -MARGIN:] == 255).all()


def test_every_row_needs_its_caption() -> None:
    images, truth = scene(1)
    with pytest.raises(ValueError, match="zip"):
        mosaic(images, truth, truth, classes=CLASSES, palette=PALETTE, rows=["best"])


def gallery(count: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    shape = (count, 4, SIDE, SIDE, 3)
    patches = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return patches, np.ones((count, 4), dtype=bool)


def drawn(
    patches: NDArray[np.uint8],
    found: NDArray[np.bool_],
    *,
    caption: str = "",
    name: str = "cluster",
) -> Image.Image:
    names = [f"{name} {k}\n{k} % of the pixels" for k in range(len(patches))]
    ids = np.arange(len(patches))
    return gallery_figure(patches, found, names, ids=ids, palette=PALETTE, caption=caption)


def gallery_row(picture: Image.Image, row: int) -> NDArray[np.uint8]:
    top = MARGIN + row * (SIDE + 6)
    return np.asarray(picture)[top : top + SIDE, MARGIN : picture.width - MARGIN]


def test_a_gallery_shows_a_colour_a_name_and_the_patches_a_row() -> None:
    patches, found = gallery(5)
    found[1, 2:] = False
    picture = drawn(patches, found)
    assert picture.height == 2 * MARGIN + 5 * SIDE + 4 * 6
    for row in range(5):
        pixels = gallery_row(picture, row)
        swatch = paint(np.full((SIDE, 22), row), PALETTE)
        assert np.array_equal(pixels[1:-1, 1:21], swatch[1:-1, 1:21])
        for index in range(4):
            left = pixels.shape[1] - (4 - index) * (SIDE + 6) + 6
            shown = pixels[1:-1, left + 1 : left + SIDE - 1]
            expected = (
                patches[row, index] if found[row, index] else np.full_like(patches[0, 0], 255)
            )
            assert np.array_equal(shown, expected[1:-1, 1:-1])
        name = pixels[:, 22 : -4 * (SIDE + 6)]
        assert (34, 34, 34) in tones(name[: SIDE // 2])
        assert (34, 34, 34) in tones(name[SIDE // 2 :])


@pytest.mark.parametrize(("count", "rows", "columns"), [(3, 3, 1), (14, 14, 1), (60, 30, 2)])
def test_a_gallery_of_many_clusters_has_two_columns(count: int, rows: int, columns: int) -> None:
    patches, found = gallery(count)
    picture, single = drawn(patches, found), drawn(*gallery(1))
    assert picture.height == 2 * MARGIN + rows * (SIDE + 6) - 6
    assert columns * (single.width - 2 * MARGIN) < picture.width
    last = patches[-1, -1, 1:-1, 1:-1]
    bottom, right = picture.height - MARGIN, picture.width - MARGIN
    shown = np.asarray(picture)[bottom - SIDE + 1 : bottom - 1, right - SIDE + 1 : right - 1]
    assert np.array_equal(shown, last)


def test_clusters_without_a_patch_are_named_in_one_line() -> None:
    patches, found = gallery(40)
    found[3:] = False
    many, few = drawn(patches, found), drawn(patches[:4], found[:4])
    none = drawn(patches[:3], found[:3])
    assert many.height == few.height == none.height + 10 + 22
    assert np.array_equal(np.asarray(many)[: none.height - MARGIN], np.asarray(few)[: -MARGIN - 32])
    assert (34, 34, 34) in tones(np.asarray(few)[-MARGIN - 22 : -MARGIN])
    assert (np.asarray(many)[:, -MARGIN:] == 255).all(), "the line ends within the picture"
    assert drawn(patches[3:], found[3:]).height == 2 * MARGIN + 22


def test_long_names_of_clusters_do_not_run_into_the_patches() -> None:
    patches, found = gallery(2)
    short, long = drawn(patches, found), drawn(patches, found, name="cluster → " + "building" * 6)
    assert long.width > short.width
    assert drawn(patches, found, name="cluster → " + "building" * 9).width == long.width
    pixels = gallery_row(long, 0)
    assert (pixels[:, -4 * (SIDE + 6) - 6 : -4 * (SIDE + 6) + 6] == 255).all()


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    images, truth = scene(1)
    patches, found = gallery(5)
    for name in ("first", "second"):
        folder = tmp_path / name
        picture = mosaic(
            images, truth, truth, classes=CLASSES, palette=PALETTE, caption="val", rows=["a", "b"]
        )
        save(picture, folder / "mosaic.png")
        save(drawn(patches, found, caption="val"), folder / "gallery.png")
    for file in ("mosaic.png", "gallery.png"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_saving_leaves_the_whole_picture_or_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "mosaic.png"
    save(Image.new("RGB", (3, 2), "red"), path)
    with pytest.raises(OSError, match="CMYK"):
        save(Image.new("CMYK", (9, 9)), path)
    with Image.open(path) as kept:
        assert kept.size == (3, 2)
    assert [file.name for file in path.parent.iterdir()] == ["mosaic.png"]
