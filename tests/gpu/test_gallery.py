"""A gallery of tensors on a GPU is the one of the same tensors on the CPU."""

import numpy as np
import pytest
import torch

from usseg_ray.scoring.patches import PatchGallery

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_a_gallery_does_not_depend_on_the_device() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 40, 50), generator=generator, dtype=torch.uint8)
    # Few values, so that scores are often equal.
    scores = torch.randint(0, 6, (6, 4, 5, 5), generator=generator).float()
    here, there = (PatchGallery(4, per_cluster=3, side=48) for _ in range(2))
    for some, theirs in zip(pixels.split(2), scores.split(2), strict=True):
        here.add(some, theirs)
        there.add(some.cuda(), theirs.cuda())
    assert np.array_equal(here.patches().scores, there.patches().scores)
    assert np.array_equal(here.patches().pixels, there.patches().pixels)
