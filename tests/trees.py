"""Miniatures of published data sets in their official layouts: a few images of 8x6 pixels each.

Labels run through every value that a set's files may hold, so that a preparation shows what becomes
of each.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

HEIGHT, WIDTH = 6, 8
VALUES = {
    "cocostuff27": [*range(182), 255],
    "cocostuff81": [v for v in range(182) if v not in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)],
    "cityscapes27": [*range(34), 255],
    "potsdam3": [0, 1, 2, 3, 4, 5, 255],
    "voc2012": [*range(21), 255],
    "camvid": list(range(12)),
}
VALUES |= {
    "cocostuff27-curated": VALUES["cocostuff27"],
    "cocostuff171": VALUES["cocostuff81"],
    "cityscapes19": VALUES["cityscapes27"],
}


def values_of(index: int, values: Sequence[int]) -> np.ndarray:
    """The label of one image: as many values as it has pixels, from where the last one ended."""
    pixels = HEIGHT * WIDTH
    return np.resize(np.roll(values, -index * pixels), (HEIGHT, WIDTH)).astype(np.uint8)


def colours_of(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mat":
        # As IIC stores them: colours in bytes, labels in 32 bits.
        tile = {"img": pixels} if pixels.ndim == 3 else {"gt": pixels.astype(np.int32)}
        scipy.io.savemat(path, tile)
    else:
        Image.fromarray(pixels).save(path)


def save_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def save_pairs(names: Sequence[str], values: Sequence[int], image: str, label: str) -> None:
    """Saves images and labels under paths that hold a `*` for the name."""
    for index, name in enumerate(names):
        save(Path(image.replace("*", name)), colours_of(index))
        save(Path(label.replace("*", name)), values_of(index, values))


def plant_coco(root: Path, values: Sequence[int]) -> None:
    for part, first in (("train2017", 0), ("val2017", 100)):
        names = [f"{first + index:012d}" for index in range(4)]
        save_pairs(
            names,
            values,
            f"{root}/images/{part}/*.jpg",
            f"{root}/annotations/{part}/*.png",
        )
        lists = root / "curated" / part
        save_list(lists / "Coco164kFull_Stuff_Coarse.txt", names)
        save_list(lists / "Coco164kFull_Stuff_Coarse_7.txt", names[:3])


def plant_cityscapes(root: Path, values: Sequence[int]) -> None:
    for part, city in (("train", "aachen"), ("val", "lindau")):
        names = [f"{city}/{city}_{index:06d}_000019" for index in range(3)]
        save_pairs(
            names,
            values,
            f"{root}/leftImg8bit/{part}/*_leftImg8bit.png",
            f"{root}/gtFine/{part}/*_gtFine_labelIds.png",
        )


def plant_potsdam(root: Path, values: Sequence[int]) -> None:
    names = [f"{index}_0_0" for index in range(5)]
    save_pairs(
        names,
        values,
        f"{root}/imgs/*.mat",
        f"{root}/gt/*.mat",
    )
    save(root / "imgs" / "4_0_0.mat", np.dstack([colours_of(4), colours_of(5)[..., 0]]))
    save_list(root / "labelled_train.txt", names[:3])
    save_list(root / "labelled_test.txt", names[3:])


ISPRS_COLOURS = (
    (255, 255, 255),
    (0, 0, 255),
    (0, 255, 255),
    (0, 255, 0),
    (255, 255, 0),
    (255, 0, 0),
)


def plant_mosaics(root: Path, side: int = 800) -> Path:
    """Makes ISPRS's layout of Potsdam: two mosaics with maps, one that only the makers' have."""
    for index, place in enumerate(("2_10", "7_9", "2_13")):
        draws = np.random.default_rng(index)
        image = draws.integers(0, 256, (side, side, 4), np.uint8)
        label = np.array(ISPRS_COLOURS, np.uint8)[draws.integers(0, 6, (side, side))]
        save(root / "4_Ortho_RGBIR" / f"top_potsdam_{place}_RGBIR.tif", image)
        save(root / "2_Ortho_RGB" / f"top_potsdam_{place}_RGB.tif", image[..., :3])
        save(root / "5_Labels_all" / f"top_potsdam_{place}_label.tif", label)
    return root


def plant_voc(root: Path, values: Sequence[int]) -> None:
    home = root / "VOCdevkit" / "VOC2012"
    names = [f"2007_{index:06d}" for index in range(5)]
    save_pairs(
        names,
        values,
        f"{home}/JPEGImages/*.jpg",
        f"{home}/SegmentationClass/*.png",
    )
    for name in names:
        path = home / "SegmentationClass" / f"{name}.png"
        coloured = Image.open(path).convert("L")
        coloured.putpalette(bytes(range(256)) * 3)
        coloured.save(path)
    save_list(home / "ImageSets" / "Segmentation" / "train.txt", names[:3])
    save_list(home / "ImageSets" / "Segmentation" / "val.txt", names[3:])


def plant_camvid(root: Path, values: Sequence[int]) -> None:
    for part in ("train", "val", "test"):
        save_pairs(
            [f"{part}_{index}" for index in range(2)],
            values,
            f"{root}/{part}/*.png",
            f"{root}/{part}annot/*.png",
        )


PLANTERS = {
    "cocostuff27": plant_coco,
    "cocostuff27-curated": plant_coco,
    "cocostuff81": plant_coco,
    "cocostuff171": plant_coco,
    "cityscapes27": plant_cityscapes,
    "cityscapes19": plant_cityscapes,
    "potsdam3": plant_potsdam,
    "voc2012": plant_voc,
    "camvid": plant_camvid,
}


def plant(root: Path, name: str) -> Path:
    """Makes the miniature of a data set below a folder, and returns the folder."""
    PLANTERS[name](root, VALUES[name])
    return root
