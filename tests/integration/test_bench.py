"""The benchmarks that need Ray run and say what they measured; how fast is no matter of a test."""

from pathlib import Path

import pytest
import ray

from tests.features import vit
from usseg_ray.bench_images import write_set
from usseg_ray.bench_io import io_bars
from usseg_ray.bench_meter import apart
from usseg_ray.bench_sweep import Sweep, time_sweep
from usseg_ray.config import UserError, flatten

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("ray_cluster")
def test_reading_stands_beside_decoding() -> None:
    found = list(io_bars(700))
    cores = ray.cluster_resources()["CPU"]
    assert [(one.what.split(",")[0], one.unit, one.reference.split(",")[0]) for one in found] == [
        ("decode 480x360 JPEG", "images/s", "Pillow"),
        ("prepare", "images/s", "decoding alone"),
        ("prepare", "images/s", "the bar"),
        ("stream", "rows/s", "in this process"),
        ("stream", "rows/s", "decoding alone"),
        ("stream", "s", "in this process"),
        ("stream", "s", "in this process"),
    ]
    assert all(0 < one.value < float("inf") for one in found)
    assert found[1].reference_value == pytest.approx(found[0].value * cores)
    assert [one.limit for one in found] == [None, None, 1.0, None, None, None, None]


@pytest.mark.usefixtures("ray_cluster")
def test_too_few_images_are_one_clear_line() -> None:
    with pytest.raises(UserError, match="4 images: too few to time preparing"):
        list(io_bars(4))


def test_a_sweep_is_timed_part_by_part(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"train": 6, "val": 3, "test": 3}, labelled=True)
    settings = {
        **flatten(vit(tmp_path), "backbone."),
        "data.train_size": 32,
        "data.eval_size": 32,
        "data.crops": "centre",
        "data.flip": False,
        "train.batch_size": 3,
        "resources.num_workers": 0,
        "resources.cpus_per_worker": 0.5,
    }
    # In a process of its own, since Ray's processes must see the store that is made for the sweep.
    timing = apart(time_sweep, Sweep("stego", 1, 2, stored=True), tmp_path / "set", settings)
    (trial,) = timing.outcome.trials
    assert (trial.metrics["epoch"], trial.status) == (2, "FINISHED")
    seconds = timing.outcome.seconds
    assert list(seconds) == [
        "start",
        "features",
        "choosing the form of trials",
        "trials",
        "baselines, after the trials",
        "finalists",
    ]
    assert sum(seconds.values()) < timing.wall
    assert 0 < trial.metrics["input_seconds"] < trial.metrics["train_seconds"] < seconds["trials"]
