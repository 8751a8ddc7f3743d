"""What scoring with refiners will take: the images, the CRF for each map, and the linear probe."""

from pathlib import Path

import pytest

from tests import tiny
from usseg_ray.data.manifest import save_manifest, split_totals
from usseg_ray.scoring.protocols import Refinement
from usseg_ray.trials.job import Job
from usseg_ray.trials.refining import RefiningForecast

FLIP, CRF, BOTH = (Refinement.parse(name) for name in ("flip", "crf", "flip+crf"))
SHAPE = (3, tiny.SIDE, tiny.SIDE)


def job(root: Path, method: str = "kmeans") -> Job:
    return Job(method, tiny.config(method, data__name=str(root)), str(root))


def test_every_map_that_a_crf_refines_counts(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    forecast = RefiningForecast("cpu", {SHAPE: 1000.0})
    # Of 5 images the clusters and the linear probe, each plain, mirrored and in two forms with it.
    found = forecast.seconds(job(tmp_path), (FLIP, CRF, BOTH))
    assert 2 * 2 * 5 * 1000 < found < 2 * 2 * 5 * 1000 + 100
    assert 0 < forecast.seconds(job(tmp_path), (FLIP,)) < 100


def test_a_crf_is_timed_once_for_maps_of_one_size(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    forecast = RefiningForecast("cpu")
    first = forecast.seconds(job(tmp_path), (BOTH,))
    (known,) = forecast.crf_seconds.items()
    assert known[0] == SHAPE
    assert first > 2 * 5 * known[1] > 0
    forecast.seconds(job(tmp_path, "stego"), (BOTH,))
    assert list(forecast.crf_seconds.items()) == [known]


@pytest.mark.parametrize("labelled", [True, False])
def test_the_whole_split_counts_and_a_probe_where_labels_are(
    tmp_path: Path, labelled: bool
) -> None:
    made = tiny.write(tmp_path, splits={"train": 12, "val": 3, "test": 50})
    if not labelled:
        shards = [
            one.model_copy(update={"labelled": 0}) if one.split == "train" else one
            for one in made.shards
        ]
        totals = {"shards": tuple(shards), "splits": split_totals(shards)}
        save_manifest(made.model_copy(update=totals), tmp_path)
    found = RefiningForecast("cpu", {SHAPE: 1000.0}).seconds(job(tmp_path), (CRF,))
    assert round(found / 1000 / 50) == (2 if labelled else 1)
