"""The published data sets that `prepare --dataset` knows, one file a family."""

from usseg_ray.core.errors import UserError, did_you_mean
from usseg_ray.prepare.sets.base import Benchmark
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

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
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

__all__ = ["BENCHMARKS", "Benchmark", "get"]


def get(name: str) -> Benchmark:
    """Returns a published data set by name; a `UserError` lists those that there are."""
    if name not in BENCHMARKS:
        hint = did_you_mean(name, BENCHMARKS)
        raise UserError(
            f"--dataset {name!r} is not known{hint} Known: {', '.join(BENCHMARKS)}. "
            "A folder of your own needs no --dataset."
        )
    return BENCHMARKS[name]
