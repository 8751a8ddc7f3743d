"""Pascal VOC 2012: twenty kinds of things and the background."""

from pathlib import Path

from usseg_ray.prepare.lists import names_in
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
from usseg_ray.prepare.sets.download import Archive

_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "tv/monitor",
)
# Where the makers' own address, host.robots.ox.ac.uk, redirects to. Size and SHA-256:
# tensorflow/datasets, tensorflow_datasets/url_checksums/voc.txt. torchvision states an MD5 only
# (datasets/voc.py: 6cd6e144f989b92b3379bac3b3de84fd).
_TRAINVAL = Archive(
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "VOCtrainval_11-May-2012.tar",
    sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    size=1_999_639_040,
    unpacks={"VOCdevkit/VOC2012": "VOCdevkit/VOC2012"},
)


def _find(root: Path) -> Splits:
    places = (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root)
    home = next(place for place in places if place.is_dir() or place == root)
    images, labels = folder(home / "JPEGImages"), folder(home / "SegmentationClass")
    lists = folder(home / "ImageSets" / "Segmentation")
    train, val = held_out(names_in(lists / "train.txt"))
    parts = {"train": train, "val": val, "test": names_in(lists / "val.txt")}
    return {
        split: entries_of(split, ids, named(images, ".jpg"), named(labels, ".png"))
        for split, ids in parts.items()
    }


def _colour(index: int) -> tuple[int, int, int]:
    """The devkit's: bit 3 i + c of the index becomes bit 7 - i of channel c."""
    red, green, blue = (
        sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))
        for channel in range(3)
    )
    return red, green, blue


VOC2012 = PublishedSet(
    name="voc2012",
    classes=_CLASSES,
    things=_CLASSES[1:],
    class_of={**{value: value for value in range(len(_CLASSES))}, IGNORE_INDEX: IGNORE_INDEX},
    layout="JPEGImages/*.jpg, SegmentationClass/*.png and ImageSets/Segmentation/{train,val}.txt",
    home="host.robots.ox.ac.uk/pascal/VOC/voc2012 (images: Flickr's terms of use)",
    origins=origins_with_held_out("train.txt", "val.txt"),
    expected={"train": 1391, "val": 73, "test": 1449},
    palette=tuple(_colour(index) for index in range(len(_CLASSES))),
    archives=(_TRAINVAL,),
    find=_find,
)
