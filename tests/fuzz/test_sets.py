"""Whatever lies in a set's folder: a set, or the product's own error."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.files import FILES
from tests.fuzz.values import json_values, often, seldom
from usseg_ray.core.errors import UserError
from usseg_ray.data.manifest import MANIFEST, load_manifest
from usseg_ray.prepare.description import FILE, describe_set, read_set_description
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.layouts import discover
from usseg_ray.prepare.lists import lines_of
from usseg_ray.prepare.meaning import check_values
from usseg_ray.prepare.survey import survey
from usseg_ray.prepare.windows import cut_large
from usseg_ray.prepare.write import fingerprint

KEYS = ("name", "classes", "things", "ignore_index", "palette", "void_colour")


@often
@given(content=json_values | st.dictionaries(st.sampled_from(KEYS), json_values))
def test_descriptions(content: object) -> None:
    with suppress(UserError):
        describe_set(content, Path(FILE))


@seldom
@given(data=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_files_of_text(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILE)
        path.write_bytes(data)
        for read in (read_set_description, lines_of):
            with suppress(UserError):
                read(path)


shapes = st.one_of(
    json_values,
    st.lists(st.lists(st.integers(-9, 99) | st.floats(), max_size=9), max_size=3),
    st.fixed_dictionaries(
        {"size": st.just([16, 24]), "counts": st.text() | st.lists(st.integers(-9, 400))}
    ),
)
strange = json_values | st.integers()
image_names = st.sampled_from(["a.png", "../a.png", "", "/", ".", "a\0", "a" * 300]) | st.text()


def mostly(usual: object) -> st.SearchStrategy[object]:
    """What is nearly always as it should be, so that what comes behind it is reached."""
    return st.integers(0, 19).flatmap(lambda drawn: strange if drawn == 0 else st.just(usual))


def all_of(folder: str) -> None:
    """Does what `prepare` does with a folder, but for writing shards."""
    with suppress(UserError):
        found = cut_large(discover(folder))
        fingerprint(found)
        inspector = Inspector(found.meaning, survey(found))
        for _ in inspector.rows(found.entries):
            pass
        check_values(inspector.values, found.meaning)


@often
@given(
    image=st.fixed_dictionaries(
        {"id": mostly(1), "file_name": image_names, "height": mostly(16), "width": mostly(24)}
    ),
    annotation=st.fixed_dictionaries(
        {"image_id": mostly(1), "category_id": mostly(1), "segmentation": shapes}
    ),
    categories=st.lists(
        st.fixed_dictionaries({"id": mostly(1), "name": st.text()}), min_size=1, max_size=3
    ),
)
def test_annotations(image: object, annotation: object, categories: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.png").write_bytes(FILES["PNG"])
        told = {"images": [image], "annotations": [annotation], "categories": categories}
        Path(folder, "annotations.json").write_text(json.dumps(told))
        all_of(folder)


PARTS = ("train", "val", "images", "labels", "masks", "imgs", "a", "b", "a_mask", "é", "JPEGImages")
names = st.builds(
    lambda parts, suffix: "/".join(parts) + suffix,
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4),
    st.sampled_from([".png", ".jpg", ".JPG", ".txt", ".json", ".gif", ".npy", ""]),
)


contents = st.sampled_from(list(FILES.values())) | st.text(max_size=20).map(
    lambda text: text.encode("utf-8", "replace")
)


@seldom
@given(tree=st.dictionaries(names, contents, max_size=8))
def test_trees_of_files(tree: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in tree.items():
            path = Path(folder, name)
            with suppress(OSError):  # a file where a folder is to be
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        all_of(folder)


@often
@given(
    changes=st.dictionaries(
        st.sampled_from(("name", "classes", "splits", "shards", "ignore_index", "palette", "x")),
        json_values,
    )
)
def test_manifests(changes: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        told = {
            "format_version": 1,
            "name": "x",
            "classes": [],
            "ignore_index": 255,
            "splits": {},
            "shards": [],
            "source": "x",
        }
        Path(folder, MANIFEST).write_text(json.dumps(told | changes))
        with suppress(UserError):
            load_manifest(folder)
