"""Files as cameras and programs write them: read as what they are, or left out with a reason."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.encoded import encode, picture, segment
from tests.integration.farms import (
    EXIF_TURN,
    HEIGHT,
    WIDTH,
    counts,
    photograph,
    put,
    reasons,
    stored,
    truth,
    with_exif,
)
from usseg_ray.data.decode import decode_image
from usseg_ray.prepare.write import prepare

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
]


@pytest.mark.parametrize(
    "body", [b"\xff\xe1 not a header", b"II*\0", b"", b"MM\0*\xff\xff\xff\xff"]
)
def test_a_broken_exif_block_costs_the_turn(root: Path, body: bytes) -> None:
    photograph(root / "a.jpg")
    put(root / "b.jpg", with_exif(photograph(root / "b.jpg"), body))
    for form in ("PNG", "WEBP"):
        pixels = Image.fromarray(picture(HEIGHT, WIDTH))
        put(root / f"{form}.{form.lower()}", encode(pixels, form, exif=b"Exif\0\0" + body))
    assert counts(prepare(root, root.parent / "out")) == {"train": (4, 0)}
    assert reasons(root.parent / "out") == []


def test_exif_far_behind_turns(root: Path) -> None:
    others = (segment(0xED, b"Photoshop 3.0\0" + bytes(60000)), segment(0xE2, bytes(20000)))
    put(root / "a.jpg", with_exif(photograph(root / "a.jpg"), EXIF_TURN, *others))
    pixels = Image.fromarray(picture(HEIGHT, WIDTH))
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 100_000)
    put(root / "b.png", encode(pixels, "PNG", pnginfo=text, exif=EXIF_TURN))
    prepare(root, root.parent / "out")
    sizes = {(row["height"], row["width"]) for row in stored(root.parent / "out")}
    assert sizes == {(WIDTH, HEIGHT)}


@pytest.mark.parametrize(("bits", "form"), [(12, "TIFF"), (12, "PNG"), (10, "TIFF"), (9, "PNG")])
def test_deep_grey_is_scaled_and_said(root: Path, bits: int, form: str) -> None:
    step = 2 ** (bits - 6)
    ramp = np.tile(np.arange(64, dtype=np.uint16), (64, 1)) * step
    put(root / f"a.{form.lower()}", encode(Image.fromarray(ramp), form))
    prepared = prepare(root, root.parent / "out")
    values = f"{step} to {62 * step}"
    assert prepared.notes == (
        f"16-bit: 2 % and 98 % of the training images' values, {values}, become 0 to 255.",
    )
    (row,) = stored(root.parent / "out")
    pixels = decode_image(row["image"])
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
def test_bigtiff_is_read(root: Path, options: dict[str, str]) -> None:
    pixels = Image.fromarray(picture(32, 40))
    put(root / "a.tif", encode(pixels, "TIFF", big_tiff=True, **options))
    assert counts(prepare(root, root.parent / "out")) == {"train": (1, 0)}


def test_a_png_whose_checksum_is_wrong_is_quarantined(root: Path) -> None:
    for number in range(2):
        photograph(root / f"images/{number}.png", form="PNG")
        truth(root / f"labels/{number}.png")
    for kind, number in (("labels", 1), ("images", 0)):
        path = root / kind / f"{number}.png"
        data = bytearray(path.read_bytes())
        data[data.index(b"IDAT") + 10] ^= 4
        path.write_bytes(data)
    prepared = prepare(root, root.parent / "out", max_bad_share=1)
    assert counts(prepared) == {"train": (1, 0)}
    assert all(
        "checksum of its part b'IDAT' is wrong" in one for one in reasons(root.parent / "out")
    )
    assert len(reasons(root.parent / "out")) == 2


@pytest.mark.parametrize("size", [(1, 4000), (4000, 2)])
def test_strips_are_left_out(root: Path, size: tuple[int, int]) -> None:
    photograph(root / "a.jpg")
    put(root / "b.png", encode(Image.new("RGB", size), "PNG"))
    assert counts(prepare(root, root.parent / "out", max_bad_share=1)) == {"train": (1, 0)}
    assert "is a strip, more than 64 times as long as wide" in reasons(root.parent / "out")[0]


def test_a_label_drawn_on_the_unturned_picture_is_told(root: Path) -> None:
    put(root / "images/a.jpg", with_exif(photograph(root / "images/a.jpg"), EXIF_TURN))
    truth(root / "labels/a.png")
    prepare(root, root.parent / "out", max_bad_share=1)
    (reason,) = reasons(root.parent / "out")
    assert (
        "40x24 as its image lies in the file, but EXIF turns the image upright to 24x40" in reason
    )


def test_a_turn_that_keeps_the_size_is_said(root: Path) -> None:
    upside_down = EXIF_TURN.replace(b"\x01\0\0\0\x06", b"\x01\0\0\0\x03")
    put(root / "images/a.jpg", with_exif(photograph(root / "images/a.jpg"), upside_down))
    truth(root / "labels/a.png")
    prepared = prepare(root, root.parent / "out")
    assert "1 labelled images are turned by EXIF without a change of size" in prepared.notes[-1]
