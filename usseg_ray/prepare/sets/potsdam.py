"""Potsdam-3: aerial tiles of 200x200 pixels, three pairs of the ISPRS classes.

Either IIC's tiles, or the mosaics that ISPRS hands out, cut here as IIC cut them: halved, then
every 200 pixels in both directions. IIC drew names and splits at random and kept no seed, so from
mosaics the splits follow from the tiles' places instead.

Reference: Ji et al., ICCV 2019, and its code's potsdam_prepare.py (mosaics, tiles, colours, share).
"""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import listed
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import picture_size
from usseg_ray.prepare.conversion import CORNERS
from usseg_ray.prepare.entries import Cut, Entry
from usseg_ray.prepare.lists import names_in
from usseg_ray.prepare.sets.base import (
    IGNORE_INDEX,
    PublishedSet,
    Splits,
    entries_of,
    folder,
    held_out,
    origins_with_held_out,
    parted,
)

_IMAGES = (".mat", ".tif", ".png")
_LABELS = (".mat", ".png")

# Infrared is left out, so both say the same; the order is IIC's choice first.
_MOSAICS = {"4_Ortho_RGBIR": "RGBIR", "2_Ortho_RGB": "RGB"}
_MAPS = ("5_Labels_for_participants", "5_Labels_all")
_MAP_NAME = re.compile(r"top_potsdam_(\d+)_(\d+)_label\.tif")
# The 24 mosaics whose maps participants got, which are those that IIC had, out of 38.
_LABELLED = {
    (row, column) for row in range(2, 8) for column in (range(10, 13) if row < 6 else range(7, 13))
}
_TILE, _SHRINK = 200, 2
_TESTED = 855 / 5400
_WHITE, _RED, _YELLOW, _GREEN, _CYAN, _BLUE = (CORNERS + bits for bits in (7, 4, 6, 2, 3, 1))


def _find(root: Path) -> Splits:
    home = _home(root)
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


def _home(root: Path) -> Path:
    return root / "potsdam" if (root / "potsdam").is_dir() else root


def _first(root: Path, names: tuple[str, ...]) -> Path:
    """Finds the first of some folders, each perhaps in another of its name, as unpacked."""
    places = [place for name in names for place in (root / name / name, root / name)]
    return folder(next(filter(Path.is_dir, places), places[1]))


def _find_mosaics(root: Path) -> Splits:
    images, maps = _first(_home(root), tuple(_MOSAICS)), _first(_home(root), _MAPS)
    tiles: dict[str, Entry] = {}
    for path in listed(maps, "*.tif"):
        named = _MAP_NAME.fullmatch(path.name)
        if named and tuple(map(int, named.groups())) in _LABELLED:
            name = path.name.replace("label", _MOSAICS[images.name])
            tiles |= _tiles("_".join(named.groups()), images / name, path)
    learnt, test = parted(tiles, round(_TESTED * len(tiles)))
    train, val = held_out(learnt)
    parts = {"train": train, "val": val, "test": test}
    return {
        split: [replace(tiles[key], split=split) for key in ids] for split, ids in parts.items()
    }


def _tiles(mosaic: str, image: Path, label: Path) -> dict[str, Entry]:
    try:
        height, width = picture_size(image)
    except UndecodableError as error:
        raise UserError(f"{image}: cannot be read ({error}).") from None
    side = _TILE * _SHRINK
    return {
        key: Entry(key, "", str(image), str(label), Cut(row * side, column * side, side, _SHRINK))
        for row in range(height // side)
        for column in range(width // side)
        for key in [f"{mosaic}_{row:02d}_{column:02d}"]
    }


def _mosaics(root: Path) -> PublishedSet | None:
    found = any((_home(root) / name).is_dir() for name in (*_MOSAICS, *_MAPS))
    return _OF_MOSAICS if found else None


_OF_TILES = PublishedSet(
    name="potsdam3",
    classes=("roads and cars", "buildings and clutter", "vegetation and trees"),
    things=(),
    class_of={0: 0, 4: 0, 1: 1, 5: 1, 2: 2, 3: 2, IGNORE_INDEX: IGNORE_INDEX},
    layout="imgs/*.mat, gt/*.mat, labelled_train.txt and labelled_test.txt; or, of ISPRS, "
    "4_Ortho_RGBIR/top_potsdam_*_RGBIR.tif (or 2_Ortho_RGB/top_potsdam_*_RGB.tif) and "
    "5_Labels_for_participants/top_potsdam_*_label.tif (or 5_Labels_all)",
    home="ISPRS (2D semantic labelling, Potsdam; on request), whole or in tiles as cut by IIC",
    origins=origins_with_held_out("labelled_train.txt", "labelled_test.txt"),
    expected={"train": 4318, "val": 227, "test": 855},
    how_to_get="Ask ISPRS for the Potsdam data at https://www.isprs.org (benchmarks, 2D semantic "
    "labelling), unpack 4_Ortho_RGBIR.zip (or 2_Ortho_RGB.zip) and 5_Labels_for_participants.zip "
    "(or 5_Labels_all.zip) in one folder and give that as --source, without --download.",
    find=_find,
)
_OF_MOSAICS = replace(
    _OF_TILES,
    class_of={_WHITE: 0, _YELLOW: 0, _BLUE: 1, _RED: 1, _CYAN: 2, _GREEN: 2},
    origins=origins_with_held_out(
        "the tiles of 24 mosaics that are not test",
        "855 in 5400 tiles of 24 mosaics, by the SHA-256 of their places (not IIC's draw)",
    ),
    find=_find_mosaics,
)
POTSDAM3 = replace(_OF_TILES, variant=_mosaics)
