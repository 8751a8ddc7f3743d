"""Whatever comes in, what comes out is a result or the product's own error.

`USSEG_FUZZ` multiplies the number of examples.
"""

import io
import json
import math
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.encoded import encode, picture
from usseg_ray import methods
from usseg_ray.core.config import build_config, known_keys
from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import parse_yaml
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import decode_image, decode_label, turn_of
from usseg_ray.data.manifest import MANIFEST, load_manifest
from usseg_ray.prepare.description import FILE, describe_set, read_set_description
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.layouts import discover
from usseg_ray.prepare.lists import lines_of
from usseg_ray.sweeps.space import KINDS, check_space, parse_assignments, space_of

TIMES = int(os.environ.get("USSEG_FUZZ", "1"))

FORMS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")

often = settings(max_examples=200 * TIMES, deadline=None)
seldom = settings(max_examples=100 * TIMES, deadline=None)


def file_of(form: str) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    Image.fromarray(pixels).save(stream, form, **({} if form in ("BMP", "GIF") else {"exif": exif}))
    return stream.getvalue()


def deep(form: str, bits: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 2**bits, (16, 24), np.uint16)
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


FILES = {form: file_of(form) for form in FORMS} | {
    "16-bit PNG": deep("PNG", 16),
    "12-bit TIFF": deep("TIFF", 12),
    "progressive JPEG": encode(Image.fromarray(picture()), "JPEG", progressive=True),
    "CMYK JPEG": encode(Image.fromarray(picture()).convert("CMYK"), "JPEG"),
    "LZW TIFF": encode(Image.fromarray(picture()), "TIFF", compression="tiff_lzw"),
    "BigTIFF": encode(Image.fromarray(picture()), "TIFF", big_tiff=True),
    "palette": encode(Image.fromarray(picture()).convert("P"), "PNG"),
}

changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=9)), max_size=6)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)

KEYS = ("name", "classes", "things", "ignore_index", "palette", "void_colour")


@often
@given(form=st.sampled_from(sorted(FILES)), edits=changes, cut=st.floats(0, 1))
def test_image_bytes(form: str, edits: list[tuple[float, bytes]], cut: float) -> None:
    data = bytearray(FILES[form])
    for place, put in edits:
        at = int(place * len(data))
        data[at : at + len(put)] = put
    damaged = bytes(data[: int((0.5 + cut) * len(data))])
    for decode in (decode_image, decode_label, turn_of):
        with suppress(UndecodableError):
            decode(damaged)


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


@often
@given(tree=json_values | st.dictionaries(st.sampled_from(("fixed", "space")), json_values))
def test_search_spaces(tree: object) -> None:
    with suppress(UserError):
        space_of(json.loads(json.dumps(tree)), Path("x.yaml"))


@often
@given(value=st.text() | json_values.map(json.dumps))
def test_assignments(value: str) -> None:
    with suppress(UserError):
        parse_assignments([f"method.gamma={value}"])


CONFIG = methods.get("stego").Config
SETTINGS = sorted(known_keys(CONFIG))
odd_numbers = st.sampled_from([0, -1, 10**400, 2**63, 1e308, math.inf, math.nan, "1e999", "0x1p-2"])
settings_of = json_values | odd_numbers


@often
@given(key=st.sampled_from(SETTINGS), value=settings_of)
def test_values_of_settings(key: str, value: object) -> None:
    with suppress(UserError):
        build_config(CONFIG, [parse_assignments([f"{key}={json.dumps(value)}"])])


@often
@given(
    fixed=st.dictionaries(st.sampled_from(SETTINGS), settings_of, max_size=2),
    space=st.dictionaries(
        st.sampled_from(SETTINGS),
        st.dictionaries(st.sampled_from(KINDS), st.lists(settings_of, max_size=3), max_size=2),
        max_size=2,
    ),
)
def test_spaces_of_known_keys(fixed: object, space: object) -> None:
    with suppress(UserError):
        check_space(space_of({"fixed": fixed, "space": space}, Path("x.yaml")), CONFIG, [{}])


@often
@given(text=st.text(alphabet="{}[]:,-&*!|>#'\"?%@ \n\tab01.e\\", max_size=40) | st.text())
def test_yaml_texts(text: str) -> None:
    with suppress(UserError):
        space_of(parse_yaml(text, "x.yaml"), Path("x.yaml"))


shapes = st.one_of(
    json_values,
    st.lists(st.lists(st.integers(-9, 99) | st.floats(), max_size=9), max_size=3),
    st.fixed_dictionaries(
        {"size": st.just([16, 24]), "counts": st.text() | st.lists(st.integers(-9, 400))}
    ),
)
numbers = st.integers(-1, 3) | st.integers() | json_values


@often
@given(
    image=st.fixed_dictionaries(
        {"id": numbers, "file_name": st.sampled_from(["a.png", "../a.png", "", "/"]) | st.text()},
        optional={"height": st.just(16) | numbers, "width": st.just(24) | numbers},
    ),
    annotation=st.fixed_dictionaries(
        {"image_id": numbers, "category_id": numbers, "segmentation": shapes}
    ),
    categories=st.lists(st.fixed_dictionaries({"id": numbers, "name": st.text()}), max_size=3),
)
def test_annotations(image: object, annotation: object, categories: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.png").write_bytes(FILES["PNG"])
        told = {"images": [image], "annotations": [annotation], "categories": categories}
        Path(folder, "annotations.json").write_text(json.dumps(told))
        with suppress(UserError):
            found = discover(folder)
            for _ in Inspector(found.meaning).rows(found.entries):
                pass


PARTS = ("train", "val", "images", "labels", "masks", "imgs", "a", "b", "a_mask", "é", "JPEGImages")
names = st.builds(
    lambda parts, suffix: "/".join(parts) + suffix,
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4),
    st.sampled_from([".png", ".jpg", ".JPG", ".txt", ".json", ".gif", ".npy", ""]),
)


@seldom
@given(tree=st.lists(names, max_size=8), text=st.text(max_size=20))
def test_trees_of_files(tree: list[str], text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in tree:
            path = Path(folder, name)
            with suppress(OSError):  # a file where a folder is to be
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8", errors="replace")
        with suppress(UserError):
            discover(folder)


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
