"""A trained model for the suites of tiles and workers."""

from pathlib import Path

import pytest
import torch

from tests.unit.models.conftest import kept
from usseg_ray.models.segmenter import Segmenter


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A k-means model of the tiny set."""
    return kept(tmp_path_factory.mktemp("kept"), "kmeans")


@pytest.fixture(scope="package")
def segmenter(model: Path) -> Segmenter:
    return Segmenter.open(model, torch.device("cpu"))
