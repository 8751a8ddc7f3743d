"""Cityscapes with fine labels: the 27 classes of this field, and the usual 19."""

from collections.abc import Callable, Iterable
from pathlib import Path

from usseg_ray.core.sources import listed
from usseg_ray.prepare.entries import Entry
from usseg_ray.prepare.sets.base import (
    IGNORE_INDEX,
    PublishedSet,
    Splits,
    entries_of,
    folder,
    held_out,
    named,
    origins_with_held_out,
)

_FIRST_CLASS = 7  # Label ids below it are void; so is 255, -1 in the makers' table.
_LABELS = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "parking": (250, 170, 160),
    "rail track": (230, 150, 140),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "guard rail": (180, 165, 180),
    "bridge": (150, 100, 100),
    "tunnel": (150, 120, 90),
    "pole": (153, 153, 153),
    "polegroup": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "caravan": (0, 0, 90),
    "trailer": (0, 0, 110),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
_THINGS = tuple(_LABELS)[list(_LABELS).index("person") :]
_NOT_AMONG_19 = (
    "parking",
    "rail track",
    "guard rail",
    "bridge",
    "tunnel",
    "polegroup",
    "caravan",
    "trailer",
)


def _find(root: Path) -> Splits:
    train, val = held_out(_ids(root, "train"))
    return {
        "train": _entries(root, "train", "train", train),
        "val": _entries(root, "val", "train", val),
        "test": _entries(root, "test", "val", _ids(root, "val")),
    }


def _ids(root: Path, official: str) -> list[str]:
    images = folder(root / "leftImg8bit" / official)
    return [
        path.relative_to(images).as_posix().removesuffix("_leftImg8bit.png")
        for path in listed(images, "*/*_leftImg8bit.png")
    ]


def _entries(root: Path, split: str, official: str, ids: Iterable[str]) -> list[Entry]:
    images, labels = root / "leftImg8bit" / official, folder(root / "gtFine" / official)
    image, label = named(images, "_leftImg8bit.png"), named(labels, "_gtFine_labelIds.png")
    return entries_of(split, ids, image, label)


def _published(name: str, counts: Callable[[str], bool]) -> PublishedSet:
    classes = tuple(filter(counts, _LABELS))
    numbers = {label: index for index, label in enumerate(classes)}
    void = dict.fromkeys((*range(_FIRST_CLASS), IGNORE_INDEX), IGNORE_INDEX)
    known = {
        value: numbers.get(label, IGNORE_INDEX)
        for value, label in enumerate(_LABELS, start=_FIRST_CLASS)
    }
    return PublishedSet(
        name=name,
        classes=classes,
        things=tuple(filter(counts, _THINGS)),
        class_of=void | known,
        layout="leftImg8bit/{train,val}/*/*_leftImg8bit.png and "
        "gtFine/{train,val}/*/*_gtFine_labelIds.png",
        home="cityscapes-dataset.com (registration; non-commercial)",
        origins=origins_with_held_out("train", "val"),
        expected={"train": 2826, "val": 149, "test": 500},
        palette=tuple(map(_LABELS.__getitem__, classes)),
        how_to_get="Register at https://www.cityscapes-dataset.com/register, fetch "
        "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there, unpack both in one folder "
        "and give that as --source, without --download.",
        find=_find,
    )


CITYSCAPES27 = _published("cityscapes27", lambda _: True)
CITYSCAPES19 = _published("cityscapes19", lambda label: label not in _NOT_AMONG_19)
