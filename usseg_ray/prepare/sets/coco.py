"""COCO-Stuff on COCO 2017: pixel maps of 182 labels, scored as 27, 81 or 171 classes.

Maps hold the label's number less one; 11 numbers of things were never drawn. The 27 classes are
the groups of the label hierarchy, things first.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from usseg_ray.prepare.entries import Entry
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


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split(", "))


_THINGS = _names(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire
    hydrant, street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow,
    elephant, bear, zebra, giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag, tie,
    suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
    skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon,
    bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair,
    couch, potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, blender,
    book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush
    """
)
_STUFF = _names(
    """
    banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
    ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff,
    dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood,
    flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house,
    leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement,
    pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock,
    roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone,
    straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick,
    wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other,
    waterdrops, window-blind, window-other, wood
    """
)
_GROUPS = {
    "electronic": _names("tv, laptop, mouse, remote, keyboard, cell phone"),
    "appliance": _names("microwave, oven, toaster, sink, refrigerator, blender"),
    "food": _names(
        """
        banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake
        """
    ),
    "furniture": _names(
        """
        chair, couch, potted plant, bed, mirror, dining table, window, desk, toilet, door
        """
    ),
    "indoor": _names("book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush"),
    "kitchen": _names("bottle, plate, wine glass, cup, fork, knife, spoon, bowl"),
    "accessory": _names("hat, backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase"),
    "animal": _names("bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe"),
    "outdoor": _names("traffic light, fire hydrant, street sign, stop sign, parking meter, bench"),
    "person": _names("person"),
    "sports": _names(
        """
        frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
        skateboard, surfboard, tennis racket
        """
    ),
    "vehicle": _names("bicycle, car, motorcycle, airplane, bus, train, truck, boat"),
    "ceiling": _names("ceiling-other, ceiling-tile"),
    "floor": _names("carpet, floor-marble, floor-other, floor-stone, floor-tile, floor-wood"),
    "food-stuff": _names("food-other, fruit, salad, vegetable"),
    "furniture-stuff": _names(
        """
        cabinet, counter, cupboard, desk-stuff, door-stuff, furniture-other, light,
        mirror-stuff, shelf, stairs, table
        """
    ),
    "raw-material": _names("cardboard, metal, paper, plastic"),
    "textile": _names(
        """
        banner, blanket, cloth, clothes, curtain, mat, napkin, pillow, rug, textile-other,
        towel
        """
    ),
    "wall": _names(
        """
        wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood
        """
    ),
    "window": _names("window-blind, window-other"),
    "building": _names("bridge, building-other, house, roof, skyscraper, tent"),
    "ground": _names(
        """
        dirt, gravel, ground-other, mud, pavement, platform, playingfield, railroad, road,
        sand, snow
        """
    ),
    "plant": _names("branch, bush, flower, grass, leaves, moss, plant-other, straw, tree"),
    "sky": _names("clouds, sky-other"),
    "solid": _names("hill, mountain, rock, solid-other, stone, wood"),
    "structural": _names("cage, fence, net, railing, structural-other"),
    "water": _names("fog, river, sea, water-other, waterdrops"),
}
_NEVER_DRAWN = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_LABELS = (*_THINGS, *_STUFF)
_DRAWN = tuple(value for value in range(len(_LABELS)) if value not in _NEVER_DRAWN)
_DRAWN_THINGS = tuple(value for value in _DRAWN if value < len(_THINGS))
_TRAIN_LIST = "Coco164kFull_Stuff_Coarse.txt"
_CURATED_LIST = "Coco164kFull_Stuff_Coarse_7.txt"


def _images(part: str, sha256: str, size: int) -> Archive:
    # The bucket under its own name: images.cocodataset.org has no certificate of its own. Sizes and
    # SHA-256: tensorflow/datasets, tensorflow_datasets/url_checksums/coco.txt.
    return Archive(
        f"https://s3.amazonaws.com/images.cocodataset.org/zips/{part}.zip",
        f"{part}.zip",
        sha256=sha256,
        size=size,
        unpacks={part: f"images/{part}"},
    )


def _image_list(path: str, sha256: str, size: int) -> Archive:
    # IIC's lists as PiCIE's repository keeps them; sizes and SHA-256 of the files in that commit.
    return Archive(
        "https://raw.githubusercontent.com/janghyuncho/PiCIE/"
        f"fc4e7c193c2ba77a6dbf9f24e5e7cf99da9f528a/curated/{path}",
        f"curated/{path}",
        sha256=sha256,
        size=size,
    )


_ARCHIVES = (
    _image_list(
        f"train2017/{_TRAIN_LIST}",
        "277a78bf32835ab0c3f5f009bb93cda0d71300527fc6a2e738e9b20fe756acda",
        1_270_126,
    ),
    _image_list(
        f"train2017/{_CURATED_LIST}",
        "3b837594a81880a70f177afab906fc45147d8b9c2c4f51132f784e41941812f9",
        645_177,
    ),
    _image_list(
        f"val2017/{_TRAIN_LIST}",
        "5d8ff03b25dfa5c3c8ae66a4a40894eedb51347c48692cd91ec37f7d5958d2be",
        54_236,
    ),
    _image_list(
        f"val2017/{_CURATED_LIST}",
        "7c629734c88f1a74bba6311e01d4d9fe976df84f07cb4fc86452ce5116e51655",
        28_275,
    ),
    # No checksum of this one is published anywhere.
    Archive(
        "https://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
        "stuffthingmaps_trainval2017.zip",
        "stuffthingmaps_trainval2017.zip",
        unpacks={part: f"annotations/{part}" for part in ("train2017", "val2017")},
    ),
    _images(
        "val2017", "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05", 815_585_330
    ),
    _images(
        "train2017",
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        19_336_861_798,
    ),
)


def _finder(train_list: str, scored_list: str) -> Callable[[Path], Splits]:
    """Lists images and maps of COCO 2017: of train2017 and of val2017 those of a list each."""

    def find(root: Path) -> Splits:
        home = root / "cocostuff" if (root / "cocostuff").is_dir() else root
        lists = folder(home / "curated")
        train, val = held_out(names_in(lists / "train2017" / train_list))
        scored = names_in(lists / "val2017" / scored_list)
        return {
            "train": _entries(home, "train", "train2017", train),
            "val": _entries(home, "val", "train2017", val),
            "test": _entries(home, "test", "val2017", scored),
        }

    return find


def _entries(home: Path, split: str, official: str, ids: Iterable[str]) -> list[Entry]:
    images, labels = folder(home / "images" / official), folder(home / "annotations" / official)
    return entries_of(split, ids, named(images, ".jpg"), named(labels, ".png"))


def _published(
    name: str,
    classes: tuple[str, ...],
    things: tuple[str, ...],
    class_of: Mapping[int, int],
    scored_list: str,
    expected: dict[str, int],
    train_list: str = _TRAIN_LIST,
) -> PublishedSet:
    return PublishedSet(
        name=name,
        classes=classes,
        things=things,
        class_of={**class_of, IGNORE_INDEX: IGNORE_INDEX},
        layout="images/{train,val}2017/*.jpg, annotations/{train,val}2017/*.png (stuffthingmaps), "
        f"curated/train2017/{train_list} and curated/val2017/{scored_list}",
        home="cocodataset.org (images: Flickr's terms) and github.com/nightrome/cocostuff (maps: "
        "CC BY 4.0); the lists are IIC's",
        origins=origins_with_held_out(f"train2017, {train_list}", f"val2017, {scored_list}"),
        expected={"train": 97_202, "val": 500} | expected,
        archives=_ARCHIVES,
        find=_finder(train_list, scored_list),
    )


_GROUP_OF = {
    value: group
    for group, members in enumerate(_GROUPS.values())
    for value, label in enumerate(_LABELS)
    if label in members
}

COCOSTUFF27 = _published(
    "cocostuff27",
    classes=tuple(_GROUPS),
    things=tuple(_GROUPS)[:12],
    class_of=_GROUP_OF,
    scored_list=_CURATED_LIST,
    expected={"test": 2175},
)
# IIC's and PiCIE's: the same rule of selection for training as for scores.
COCOSTUFF27_CURATED = _published(
    "cocostuff27-curated",
    classes=tuple(_GROUPS),
    things=tuple(_GROUPS)[:12],
    class_of=_GROUP_OF,
    scored_list=_CURATED_LIST,
    expected={"train": 49_129, "test": 2175},
    train_list=_CURATED_LIST,
)
COCOSTUFF81 = _published(
    "cocostuff81",
    classes=("stuff", *map(_LABELS.__getitem__, _DRAWN_THINGS)),
    things=tuple(map(_LABELS.__getitem__, _DRAWN_THINGS)),
    class_of={
        **dict.fromkeys(range(len(_THINGS), len(_LABELS)), 0),
        **{value: index for index, value in enumerate(_DRAWN_THINGS, start=1)},
    },
    scored_list=_TRAIN_LIST,
    expected={"test": 4172},
)
COCOSTUFF171 = _published(
    "cocostuff171",
    classes=tuple(map(_LABELS.__getitem__, _DRAWN)),
    things=tuple(map(_LABELS.__getitem__, _DRAWN_THINGS)),
    class_of={value: index for index, value in enumerate(_DRAWN)},
    scored_list=_TRAIN_LIST,
    expected={"test": 4172},
)
