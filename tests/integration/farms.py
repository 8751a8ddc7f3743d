"""Folders of images and labels as people have them, and what becomes of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.encoded import encode, segment
from usseg_ray.core.errors import UserError
from usseg_ray.prepare.tally import QUARANTINE
from usseg_ray.prepare.write import Preparation, prepare

EXIF_TURN = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
HEIGHT, WIDTH = 24, 40


def photograph(path: Path, seed: int = 0, form: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return put(path, encode(Image.fromarray(pixels), form))


def truth(
    path: Path, values: tuple[int, ...] = (0, 1, 2), size: tuple[int, int] = (24, 40)
) -> None:
    numbers = np.resize(np.array(values, np.uint8), size)
    put(path, encode(Image.fromarray(numbers), "PNG"))


def put(path: Path, data: bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def counts(prepared: Preparation) -> dict[str, tuple[int, int]]:
    return {name: (info.rows, info.labelled) for name, info in prepared.manifest.splits.items()}


def reasons(out: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in (out / QUARANTINE).read_text().splitlines()]


def refused(root: Path, **options: str | float) -> str:
    with pytest.raises(UserError) as error:
        prepare(root, root.parent / "out", **options)  # type: ignore[arg-type]
    assert not (root.parent / "out" / "manifest.json").exists()
    return str(error.value)


def stored(out: Path) -> list[dict[str, Any]]:
    return [row for path in (out / "shards").iterdir() for row in pq.read_table(path).to_pylist()]


def with_exif(data: bytes, body: bytes, *before: bytes) -> bytes:
    blocks = b"".join((*before, segment(0xE1, b"Exif\0\0" + body)))
    return data[:20] + blocks + data[20:]
