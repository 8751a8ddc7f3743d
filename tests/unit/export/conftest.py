"""A model as ONNX, written once for all that look at it."""

from pathlib import Path

import pytest
import torch

from tests.unit.models.conftest import kept
from usseg_ray.export.graph import to_onnx
from usseg_ray.models.segmenter import Segmenter


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a k-means model of the tiny set, on textons."""
    return kept(tmp_path_factory.mktemp("kept") / "runs" / "dunes", "kmeans")


@pytest.fixture(scope="package")
def segmenter(model: Path) -> Segmenter:
    """It, opened."""
    return Segmenter.open(model, torch.device("cpu"))


@pytest.fixture(scope="package")
def content(segmenter: Segmenter) -> bytes:
    """It, as ONNX."""
    return to_onnx(segmenter)
