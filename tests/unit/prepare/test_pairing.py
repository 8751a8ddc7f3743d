from pathlib import Path

import pytest
from PIL import Image

from usseg_ray.core.errors import UserError
from usseg_ray.prepare.entries import Entry
from usseg_ray.prepare.pairing import Pairing, is_picture
from usseg_ray.prepare.passed import PassedFiles
from usseg_ray.prepare.patterns import FileMatch


@pytest.fixture
def passed() -> PassedFiles:
    return PassedFiles()


@pytest.fixture
def pairing(passed: PassedFiles) -> Pairing:
    return Pairing(passed)


def add(pairing: Pairing, *, images: tuple[str, ...] = (), labels: tuple[str, ...] = ()) -> None:
    for name in images:
        pairing.add(Path("rgb", name), FileMatch("", Path(name).with_suffix("").as_posix()), None)
    for name in labels:
        pairing.add(Path("gt", name), None, FileMatch("", Path(name).with_suffix("").as_posix()))


def test_labels_go_to_images_of_their_name(pairing: Pairing) -> None:
    add(pairing, images=("b.jpg", "a.jpg"), labels=("b.png",))
    assert pairing.entries() == [
        Entry("a", "train", "rgb/a.jpg", None),
        Entry("b", "train", "rgb/b.jpg", "gt/b.png"),
    ]


def test_the_exact_name_wins_over_one_with_a_tail(pairing: Pairing, passed: PassedFiles) -> None:
    add(pairing, images=("a.jpg",), labels=("a_mask.png", "a.png"))
    assert [entry.label for entry in pairing.entries()] == ["gt/a.png"]
    assert passed.lines() == ["1 files passed over: .png 1."]


def test_two_tails_of_one_image_are_refused(pairing: Pairing) -> None:
    add(pairing, images=("a.jpg",), labels=("a_mask.png", "a_gt.png"))
    with pytest.raises(UserError, match="is a label of the same image"):
        pairing.entries()


def test_a_mask_beside_its_image_is_its_label(pairing: Pairing) -> None:
    add(pairing, images=("a.jpg", "a_mask.png"))
    assert pairing.entries() == [Entry("a", "train", "rgb/a.jpg", "rgb/a_mask.png")]


def test_names_in_both_normal_forms_are_one(pairing: Pairing) -> None:
    add(pairing, images=("mu\u0308ll.jpg",), labels=("m\u00fcll.png",))
    assert [(entry.id, entry.label) for entry in pairing.entries()] == [
        ("m\u00fcll", "gt/m\u00fcll.png")
    ]


def test_other_files_are_passed_over(pairing: Pairing, passed: PassedFiles) -> None:
    pairing.add(Path("notes.txt"), FileMatch("", "notes"), None)
    pairing.add(Path("a.jpg"), None, None)
    assert pairing.entries() == []
    assert passed.lines() == ["2 files passed over: .jpg 1, .txt 1."]


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        ((), ("a.png",), "labels but no images"),
        (("a.jpg",), ("b.png",), "1 labels without an image"),
        (("a.jpg",), ("a.npy",), "a label must be a PNG file of class indices"),
        (("masks/a.jpg",), (), "is called as labels are"),
    ],
)
def test_what_does_not_fit_is_refused(
    pairing: Pairing, images: tuple[str, ...], labels: tuple[str, ...], told: str
) -> None:
    add(pairing, images=images, labels=labels)
    with pytest.raises(UserError, match=told):
        pairing.entries()


def test_two_images_of_one_name_are_refused(pairing: Pairing) -> None:
    with pytest.raises(UserError, match="the same name, and names are ids"):
        add(pairing, images=("a.jpg", "a.png"))


def test_names_that_cannot_be_printed_are_refused(pairing: Pairing) -> None:
    with pytest.raises(UserError, match="cannot be printed"):
        add(pairing, images=("a\x1b.jpg",))


@pytest.mark.parametrize(
    ("image", "mode", "refused"),
    [
        ("RGB", "L", True),
        ("RGB", "P", True),
        ("L", "P", True),
        ("RGB", "RGB", False),
        ("L", "L", False),
    ],
)
def test_a_picture_of_one_channel_is_no_second_image(
    pairing: Pairing, tmp_path: Path, image: str, mode: str, refused: bool
) -> None:
    for folder, kind in (("x", image), ("y", mode)):
        (tmp_path / folder).mkdir()
        Image.new(kind, (4, 4)).save(tmp_path / folder / "a.png")
        pairing.add(tmp_path / folder / "a.png", FileMatch("", f"{folder}/a"), None)
    if refused:
        with pytest.raises(UserError, match="Is it a label"):
            pairing.refuse_label_like()
    else:
        pairing.refuse_label_like()


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a1.jpg", "a1_semantic.png"),
        ("cow.jpg", "cowMask.png"),
        ("07.jpg", "mask_07.png"),
        ("img_07.jpg", "mask_07.png"),
        ("0001TP.png", "0001TP_L.png"),
    ],
)
def test_names_that_hold_an_images_are_looked_at_too(
    pairing: Pairing, tmp_path: Path, image: str, label: str
) -> None:
    for name, mode in ((image, "RGB"), (label, "P")):
        Image.new(mode, (4, 4)).save(tmp_path / name)
        pairing.add(tmp_path / name, FileMatch("", Path(name).stem), None)
    with pytest.raises(UserError, match=rf"{label}: .*called as an image \({image}\)"):
        pairing.refuse_label_like()


def test_grey_photographs_of_names_of_their_own_are_images(
    pairing: Pairing, tmp_path: Path
) -> None:
    for name, mode in (("a 1.jpg", "RGB"), ("a 1 (2).png", "L"), ("b_grey.png", "L")):
        Image.new(mode, (4, 4)).save(tmp_path / name)
        pairing.add(tmp_path / name, FileMatch("", Path(name).stem), None)
    pairing.refuse_label_like()
    assert len(pairing.entries()) == 3


@pytest.mark.parametrize("names", [("a.gif", "a.jpg"), ("a.avif", "a.gif")])
def test_a_gif_file_beside_an_image_of_its_name_is_passed_over(
    pairing: Pairing, passed: PassedFiles, tmp_path: Path, names: tuple[str, str]
) -> None:
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        pairing.add(tmp_path / name, FileMatch("", "a"), None)
    (entry,) = pairing.entries()
    assert (entry.id, Path(entry.image).suffix == ".gif") == ("a", False)
    assert passed.lines()[0] == "1 files passed over: .gif 1."


def test_what_may_be_a_label_and_is_passed_over_is_asked_about(
    pairing: Pairing, passed: PassedFiles
) -> None:
    add(pairing, images=("x/a.jpg", "b.jpg"))
    for name in ("targets/a.png", "b_gt.npy", "b.cr2", "c.txt"):
        pairing.add(Path(name), None, None)
    pairing.entries()
    assert passed.lines()[1].startswith(
        "2 of them are called as images are (b_gt.npy). Are they labels?"
    )


def test_where_there_are_labels_nothing_is_asked(pairing: Pairing, passed: PassedFiles) -> None:
    add(pairing, images=("a.jpg",), labels=("a.png",))
    pairing.add(Path("SegmentationObject/a.png"), None, None)
    pairing.entries()
    assert passed.lines() == ["1 files passed over: .png 1."]


def test_suffixes_of_pictures() -> None:
    assert [is_picture(Path(name)) for name in ("a.JPG", "a.jfif", "a.txt", "a")] == [
        True,
        True,
        False,
        False,
    ]
