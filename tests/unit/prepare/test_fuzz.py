"""Whatever comes in, what comes out is a result or the product's own error.

`USSEG_FUZZ` multiplies the number of examples.
"""

import io
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from usseg_ray.core.errors import UserError
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import decode_image, decode_label, turn_of
from usseg_ray.prepare.description import FILE, describe, read_description
from usseg_ray.prepare.lists import lines_of
from usseg_ray.sweeps.space import parse_assignments, space_of

TIMES = int(os.environ.get("USSEG_FUZZ", "1"))

FORMS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")

often = settings(max_examples=200 * TIMES, deadline=None)
seldom = settings(max_examples=100 * TIMES, deadline=None)


def file_of(form: str) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(stream, form, **({} if form in ("BMP", "GIF") else {"exif": exif}))
    return stream.getvalue()


FILES = {form: file_of(form) for form in FORMS}

changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=9)), max_size=6)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)

KEYS = ("name", "classes", "things", "ignore_index", "palette", "void_colour")


@often
@given(form=st.sampled_from(FORMS), edits=changes, cut=st.floats(0, 1))
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
        describe(content, Path(FILE))


@seldom
@given(data=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_files_of_text(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILE)
        path.write_bytes(data)
        for read in (read_description, lines_of):
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
