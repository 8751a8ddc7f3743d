"""Potsdam-3: aerial tiles of 200x200 pixels, three pairs of the ISPRS classes, as IIC cut them."""

from functools import partial
from pathlib import Path

from usseg_ray.data.benchmarks.base import (
    IGNORE_INDEX,
    Benchmark,
    Splits,
    entries_of,
    folder,
    held_out,
    names_in,
)


def _find(root: Path) -> Splits:
    home = root / "potsdam" if (root / "potsdam").is_dir() else root
    images, labels = folder(home / "imgs"), folder(home / "gt")
    train, val = held_out(names_in(home / "labelled_train.txt"))
    parts = {"train": train, "val": val, "test": names_in(home / "labelled_test.txt")}
    return {
        split: entries_of(split, ids, partial(_tile, images), partial(_tile, labels))
        for split, ids in parts.items()
    }


def _tile(place: Path, key: str) -> Path:
    """Tiles come as MATLAB files; ones that were unpacked to TIFF or PNG do as well."""
    kinds = [place / f"{key}{suffix}" for suffix in (".mat", ".tif", ".png")]
    return next((path for path in kinds if path.exists()), kinds[0])


POTSDAM3 = Benchmark(
    name="potsdam3",
    classes=("roads and cars", "buildings and clutter", "vegetation and trees"),
    things=(),
    class_of={0: 0, 4: 0, 1: 1, 5: 1, 2: 2, 3: 2, IGNORE_INDEX: IGNORE_INDEX},
    layout="imgs/*.mat, gt/*.mat, labelled_train.txt and labelled_test.txt",
    home="ISPRS (2D semantic labelling, Potsdam; on request), cut to tiles as by IIC",
    origins={
        "train": "labelled_train.txt without what is held out",
        "val": "held out of labelled_train.txt",
        "test": "labelled_test.txt",
    },
    expected={"train": 4318, "val": 227, "test": 855},
    find=_find,
)
