"""All stages run on a CPU at small sizes; how fast is no matter of a test."""

import pytest
import torch

from usseg_ray.bench import gpu
from usseg_ray.bench.gpu import StageSizes, stage_bars, step_bars
from usseg_ray.bench.meter import Measure
from usseg_ray.bench.steps import STAGES, StepSizes
from usseg_ray.bench.suite import bar_table

CPU = torch.device("cpu")
SMALL = StageSizes(
    copied=4,
    steps=StepSizes(side=4, dim=24, pixels=32, batch=3, entries=1, clusters=5),
    timed=2,
    points=200,
    dim=8,
    images=2,
    side=32,
)


def test_every_stage_stands_beside_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    stepped: list[str] = []

    def steps(method: str, *_: object) -> list[Measure]:
        stepped.append(method)
        return []

    monkeypatch.setattr(gpu, "step_bars", steps)  # they have a test of their own
    found = list(stage_bars(SMALL, CPU))
    assert stepped == ["picie", "stego", "hp", "cause", "acseg", "smooseg"]
    assert [(one.what.split(",")[0], one.unit) for one in found] == [
        ("stored rows to the device", "MB/s"),
        ("k-means of a score", "s"),
        ("upsampling with the largest", "ms"),
        ("confusion counts", "ms"),
        ("exact CRF", "TFLOP/s"),
    ]
    assert all(one.value > 0 and (one.reference_value or 0) > 0 for one in found)
    assert {one.benchmark for one in found} == {"gpu"}
    bar_table(found)


@pytest.mark.parametrize("method", STAGES)
def test_steps_stand_beside_products_and_kernels(method: str) -> None:
    of_peak, of_kernels = step_bars(method, SMALL, CPU, 1e12)
    assert (of_peak.unit, of_kernels.unit) == ("TFLOP/s", "ms")
    assert 0 < (of_peak.ratio or 0) < 1
    # Profiled operators take longer than a step, but not many times.
    assert 0.1 < (of_kernels.ratio or 0) < 10
