import json
from pathlib import Path
from typing import Any

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.prepare.description import describe_set, read_set_description

FILE = Path("dataset.json")


def test_a_mark_before_the_text_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_bytes(b'\xef\xbb\xbf{"classes": ["a", "b"]}\r\n')
    assert read_set_description(path).classes == ("a", "b")


@pytest.mark.parametrize("content", ['{"classes": ["a"]}'.encode("utf-16"), b"[" * 100_000, b"{"])
def test_what_is_no_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dataset.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.json: not") as refused:
        read_set_description(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("classes", "names", "class_of"),
    [
        ({"1": "b", "0": "a"}, ("a", "b"), None),
        ({"255": "b", "0": "a"}, ("a", "b"), {0: 0, 255: 1}),
        ({"120": "b", "0": "a"}, ("a", "b"), {0: 0, 120: 1, 255: 255}),
    ],
)
def test_classes_by_label_value(
    classes: dict[str, str], names: tuple[str, ...], class_of: dict[int, int] | None
) -> None:
    about = describe_set({"classes": classes}, FILE)
    assert (about.classes, about.class_of) == (names, class_of)


def test_the_command_names_classes_too(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"name": "x", "classes": ["c"]}))
    assert read_set_description(path, "a, b").classes == ("a", "b")
    assert read_set_description(path, "0=a,255=b").class_of == {0: 0, 255: 1}
    with pytest.raises(UserError, match="expected NAME,NAME"):
        read_set_description(path, "a,1=b")


def test_ignore_index_0_means_classes_from_1() -> None:
    about = describe_set({"classes": ["a", "b"], "ignore_index": 0}, FILE)
    assert about.class_of == {0: 255, 1: 0, 2: 1}
    assert about.ignore_index == 255
    assert about.notes == ("ignore_index 0: the value 0 is void, and 1 is the first class, 'a'.",)
    assert describe_set({"ignore_index": 0}, FILE).notes[0].endswith("and 1 is the first class.")


def test_colours_are_written_in_two_ways() -> None:
    told = {"classes": ["a", "b"], "palette": ["#ff0000", [0, 1, 2]], "void_colour": "#000000"}
    about = describe_set(told, FILE)
    assert about.palette == ((255, 0, 0), (0, 1, 2))
    assert about.colours == {(255, 0, 0): 0, (0, 1, 2): 1, (0, 0, 0): 255}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"Classes": ["a"]}, "unknown key 'Classes'; did you mean 'classes'"),
        ({"class_names": ["a"]}, "unknown key 'class_names'; did you mean 'classes'"),
        ({"ignore_label": 0}, "unknown key 'ignore_label'; did you mean 'ignore_index'"),
        ({"classes": "cow"}, "key 'classes': must be a list"),
        ({"classes": [1]}, r"key 'classes\.0': must be text in quotes"),
        ({"ignore_index": -1}, "key 'ignore_index': must be at least 0"),
        ({"ignore_index": "many"}, "key 'ignore_index': must be a whole number"),
        ({"classes": {"a": "b"}}, "'a' is no label value"),
        ({"images": [], "annotations": [], "categories": []}, "holds COCO annotations"),
        ("text", "must be an object"),
        ({"ignore_index": True}, "key 'ignore_index': must be a whole number"),
        ({"classes": ["a", " "]}, "key 'classes': a class has no name"),
        ({"labels": ["a"]}, "unknown key 'labels'; did you mean 'classes'"),
        ({"id2label": {}}, "unknown key 'id2label'; did you mean 'classes'"),
        ({"classes": ["a"], "colors": []}, "unknown key 'colors'; did you mean 'palette'"),
        (
            {"classes": ["a", "b"], "palette": ["#000001", "#000001"]},
            r"'palette' gives 'b' the colour of 'a': \(0, 0, 1\)",
        ),
        (
            {"classes": ["a"], "palette": ["#000001"], "void_colour": [0, 0, 1]},
            "'palette' gives 'a' the colour of 'void'",
        ),
        ({"name": "../../x"}, "cannot be part of a path"),
        ({"name": "a\\b"}, "cannot be part of a path"),
        ({"name": ".."}, "cannot be part of a path"),
        ({"name": "a\u001b[31m"}, "cannot be part of a path"),
    ],
)
def test_what_cannot_be_meant_is_told_in_words_of_the_file(content: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"^dataset\.json: .*{message}"):
        describe_set(content, FILE)


def test_a_key_that_is_there_was_not_meant_by_another() -> None:
    # Nearly `classes`, which has its own.
    assert describe_set({"classes": ["a", "b"], "num_classes": 2}, FILE).classes == ("a", "b")
    with pytest.raises(UserError, match="did you mean 'classes'"):
        describe_set({"num_classes": 2}, FILE)


def test_other_keys_are_the_owners_notes() -> None:
    assert describe_set({"year": 1, "licence": "x"}, FILE).classes == ()
