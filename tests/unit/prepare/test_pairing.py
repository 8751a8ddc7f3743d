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


@pytest.mark.parametrize(("mode", "refused"), [("L", True), ("P", True), ("RGB", False)])
def test_a_picture_of_one_channel_is_no_second_image(
    pairing: Pairing, tmp_path: Path, mode: str, refused: bool
) -> None:
    for folder, kind in (("x", "RGB"), ("y", mode)):
        (tmp_path / folder).mkdir()
        Image.new(kind, (4, 4)).save(tmp_path / folder / "a.png")
        pairing.add(tmp_path / folder / "a.png", FileMatch("", f"{folder}/a"), None)
    if refused:
        with pytest.raises(UserError, match="Is it a label"):
            pairing.refuse_label_like()
    else:
        pairing.refuse_label_like()


def test_suffixes_of_pictures() -> None:
    assert [is_picture(Path(name)) for name in ("a.JPG", "a.jfif", "a.txt", "a")] == [
        True,
        True,
        False,
        False,
    ]
