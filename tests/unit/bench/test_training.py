"""Methods are fitted on stored features alone; how fast is no matter of a test."""

from pathlib import Path

import pytest
import torch

from usseg_ray.bench.training import METHODS, _epoch, _job, _TwoEpochs
from usseg_ray.core.types import Step
from usseg_ray.features.backbones import TimmFeatures
from usseg_ray.trials.worker import build_run

BACKBONE = "vit_tiny_patch16_224"


def test_batches_are_a_part_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USSEG_FEATURES", "set anew, and back after the test")
    epoch, batches = _epoch("stego", 16, BACKBONE, True, "float32")
    assert 0 < batches < epoch < 60


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_for_the_backbone(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USSEG_FEATURES", str(tmp_path / "store"))
    job = _job(tmp_path, method, 16, BACKBONE, "float32")
    run = build_run(job, _TwoEpochs(torch.device("cpu"), []))
    asked: list[str] = []

    def refuse(*_: object) -> None:
        asked.append(method)
        raise AssertionError

    monkeypatch.setattr(TimmFeatures, "forward", refuse)
    (batches,) = run.reader.training(range(1), 1, 16)
    (images,) = batches
    batch = run.featurise.training(images, "train", Step())
    assert batch.features.tokens.shape == (16, 192, 14, 14)
    assert (batch.augmented is not None) == (method == "hp")
    assert not asked
