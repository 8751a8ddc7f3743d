"""Whatever comes in, what comes out is a result or the product's own error.

`USSEG_FUZZ` multiplies the number of examples.
"""

import io
import json
import math
import os
import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.encoded import encode, picture
from tests.rasters import deep_png
from usseg_ray import methods
from usseg_ray.core.config import build_config, known_keys
from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import parse_yaml
from usseg_ray.data.containers import PNG, UndecodableError
from usseg_ray.data.decode import MAX_PIXELS, check_header, decode_image, decode_label, turn_of
from usseg_ray.data.manifest import MANIFEST, load_manifest
from usseg_ray.data.numbers import decode_numbers
from usseg_ray.prepare.description import FILE, describe_set, read_set_description
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.layouts import discover
from usseg_ray.prepare.lists import lines_of
from usseg_ray.prepare.meaning import check_values
from usseg_ray.prepare.survey import survey
from usseg_ray.prepare.windows import cut_large
from usseg_ray.prepare.write import fingerprint
from usseg_ray.sweeps.space import KINDS, check_space, parse_assignments, space_of

TIMES = int(os.environ.get("USSEG_FUZZ", "1"))

FORMS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")

most_often = settings(max_examples=1000 * TIMES, deadline=None)
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
    "16-bit PNG in colour": deep_png(np.arange(16 * 24 * 3, dtype=np.uint16).reshape(16, 24, 3)),
    "float TIFF": encode(Image.fromarray(np.ones((16, 24), np.float32)), "TIFF"),
    "palette": encode(Image.fromarray(picture()).convert("P"), "PNG"),
}

changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=9)), max_size=6)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)

KEYS = ("name", "classes", "things", "ignore_index", "palette", "void_colour")


@most_often
@given(form=st.sampled_from(sorted(FILES)), edits=changes, cut=st.floats(0, 1))
def test_image_bytes(form: str, edits: list[tuple[float, bytes]], cut: float) -> None:
    data = bytearray(FILES[form])
    for place, put in edits:
        at = int(place * len(data))
        data[at : at + len(put)] = put
    damaged = with_right_checksums(bytes(data[: int((0.5 + cut) * len(data))]))
    for decode in (decode_image, decode_label, turn_of, decode_numbers, checked):
        with suppress(UndecodableError):
            decode(damaged)


def with_right_checksums(data: bytes) -> bytes:
    """Lets what is damaged in a PNG file reach its decoder."""
    if not data.startswith(PNG):
        return data
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if end + 4 > len(data):
            break
        parts += [data[at:end], struct.pack(">I", zlib.crc32(data[at + 4 : end]))]
        at = end + 4
    return b"".join([*parts, data[at:]])


def checked(data: bytes) -> None:
    check_header(data, MAX_PIXELS)


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
