"""How the generator's prototypes start."""

from typing import Any

import pytest
import torch
from torch import Tensor

from usseg_ray.methods.parts.concept_generator import ConceptGenerator
from usseg_ray.settings.acseg import GeneratorConfig


def prototypes(**settings: Any) -> Tensor:
    config = GeneratorConfig(**settings)
    return ConceptGenerator(config, 12, torch.Generator().manual_seed(0)).prototypes.detach()


def test_prototypes_start_far_apart() -> None:
    rows = prototypes(prototype_init="orthogonal")
    torch.testing.assert_close(rows @ rows.T, 12 * torch.eye(5))
    assert prototypes(num_prototypes=200).std().item() == pytest.approx(1, abs=0.05)
