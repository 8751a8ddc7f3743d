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
    origins_with_held_out,
)

_IMAGES = (".mat", ".tif", ".png")
_LABELS = (".mat", ".png")


def _find(root: Path) -> Splits:
    home = root / "potsdam" if (root / "potsdam").is_dir() else root
    images, labels = folder(home / "imgs"), folder(home / "gt")
    train, val = held_out(names_in(home / "labelled_train.txt"))
    parts = {"train": train, "val": val, "test": names_in(home / "labelled_test.txt")}
    return {
        split: entries_of(
            split, ids, partial(_tile, images, _IMAGES), partial(_tile, labels, _LABELS)
        )
        for split, ids in parts.items()
    }


def _tile(place: Path, endings: tuple[str, ...], key: str) -> Path:
    """Tiles come as MATLAB files; ones that were unpacked do as well."""
    kinds = [place / f"{key}{ending}" for ending in endings]
    return next((path for path in kinds if path.exists()), kinds[0])


POTSDAM3 = Benchmark(
    name="potsdam3",
    classes=("roads and cars", "buildings and clutter", "vegetation and trees"),
    things=(),
    class_of={0: 0, 4: 0, 1: 1, 5: 1, 2: 2, 3: 2, IGNORE_INDEX: IGNORE_INDEX},
    layout="imgs/*.mat, gt/*.mat, labelled_train.txt and labelled_test.txt",
    home="ISPRS (2D semantic labelling, Potsdam; on request), cut to tiles as by IIC",
    origins=origins_with_held_out("labelled_train.txt", "labelled_test.txt"),
    expected={"train": 4318, "val": 227, "test": 855},
    how_to_get="Ask ISPRS for the Potsdam data at https://www.isprs.org (benchmarks, 2D semantic "
    "labelling), unpack 4_Ortho_RGBIR.zip (or 2_Ortho_RGB.zip) and 5_Labels_for_participants.zip "
    "(or 5_Labels_all.zip) in one folder and give that as --source, without --download.",
    find=_find,
)
