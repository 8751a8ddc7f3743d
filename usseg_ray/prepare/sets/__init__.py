"""The published data sets that `prepare --dataset` knows, one file a family."""

from usseg_ray.core.errors import UserError, did_you_mean
from usseg_ray.prepare.sets.base import PublishedSet
from usseg_ray.prepare.sets.camvid import CAMVID
from usseg_ray.prepare.sets.cityscapes import CITYSCAPES19, CITYSCAPES27
from usseg_ray.prepare.sets.coco import (
    COCOSTUFF27,
    COCOSTUFF27_CURATED,
    COCOSTUFF81,
    COCOSTUFF171,
)
from usseg_ray.prepare.sets.potsdam import POTSDAM3
from usseg_ray.prepare.sets.voc import VOC2012

PUBLISHED_SETS = {
    published.name: published
    for published in (
        COCOSTUFF27,
        COCOSTUFF27_CURATED,
        COCOSTUFF81,
        COCOSTUFF171,
        CITYSCAPES27,
        CITYSCAPES19,
        POTSDAM3,
        VOC2012,
        CAMVID,
    )
}

__all__ = ["PUBLISHED_SETS", "PublishedSet", "find_set"]


def find_set(name: str) -> PublishedSet:
    """Returns a published data set by name; a `UserError` lists those that there are."""
    if name not in PUBLISHED_SETS:
        hint = did_you_mean(name, PUBLISHED_SETS)
        raise UserError(
            f"--dataset {name!r} is not known{hint} Known: {', '.join(PUBLISHED_SETS)}. "
            "A folder of your own needs no --dataset."
        )
    return PUBLISHED_SETS[name]
