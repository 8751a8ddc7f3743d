"""Small images and every method in the settings that change its path; for all method suites."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from usseg_ray.batch import Batch, FeatureMap, FeatureSpec
from usseg_ray.distributed import shared_generator
from usseg_ray.methods import METHODS
from usseg_ray.methods.base import Method

DIM, GRID, PATCH = 12, (4, 5), 8
FEATURES = FeatureSpec(dim=DIM, patch_size=PATCH, has_attention=True)
NUM_CLUSTERS = 4

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "acseg": [
        {"background": "split", "background_pool": "mean", "num_blocks": 2, "num_heads": 3},
        {
            "background": "split",
            "background_score": "minhead",
            "norm": "pre",
            "activation": "gelu",
            "prototype_init": "orthogonal",
            "centre": True,
            "keep_loops": False,
            "tanh_scale": 0.1,
            "gamma": 1.5,
            "spherical": False,
        },
    ],
    "kmeans": [{"spherical": False}],
    "colour": [{"height_weight": 0.0}],
}


class Case(NamedTuple):
    """A method and the settings that differ from its defaults."""

    method: type[Method]
    settings: dict[str, Any]

    def build(self, num_clusters: int = NUM_CLUSTERS, seed: int = 0) -> Method:
        config = self.method.Config.model_validate(self.settings)
        return self.method(config, FEATURES, num_clusters, seed)

    @property
    def reads_features(self) -> bool:
        return self.method.needs(self.method.Config.model_validate(self.settings)).features


CASES = [
    Case(method, settings)
    for method in METHODS
    for settings in [{}, *VARIANTS.get(method.name, [])]
]
LEARNERS = [case for case in CASES if case.method.stages]
CASE_IDS = [f"{case.method.name}-{'-'.join(case.settings) or 'default'}" for case in CASES]
LEARNER_IDS = [f"{case.method.name}-{'-'.join(case.settings) or 'default'}" for case in LEARNERS]


def make_batch(images: Sequence[int]) -> Batch:
    """Builds images of four textures in random places; an image depends on its number alone."""
    centres = torch.randn(4, DIM + 3, generator=shared_generator("centres"))
    tokens, pixels, saliency = [], [], []
    for image in images:
        random = shared_generator("image", image)
        labels = torch.randint(0, 4, GRID, generator=random)
        look = centres[labels] + 0.3 * torch.randn(*GRID, DIM + 3, generator=random)
        look = look.permute(2, 0, 1)
        tokens.append(look[:DIM])
        pixels.append(look[DIM:].sigmoid().repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2))
        saliency.append(torch.rand(GRID, generator=random))
    names = tuple(f"image-{image}" for image in images)
    return Batch(names, torch.stack(pixels), FeatureMap(torch.stack(tokens), torch.stack(saliency)))


def make_passes(images: Sequence[int], batch_size: int = 2) -> Callable[[], Iterator[Batch]]:
    """Walks over images in batches; the last may be smaller."""

    def walk() -> Iterator[Batch]:
        for start in range(0, len(images), batch_size):
            yield make_batch(images[start : start + batch_size])

    return walk


def with_tokens(batch: Batch, tokens: Tensor) -> Batch:
    """Returns the batch with other tokens."""
    return Batch(batch.ids, batch.pixels, FeatureMap(tokens, batch.features.saliency))
