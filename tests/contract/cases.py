"""Small images and every method in the settings that change its path; for all method suites."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor

from usseg_ray.core.config import MethodConfig, build_config, flatten
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.types import Batch, BlockInput, FeatureMap, FeatureSpec, Pair, Step
from usseg_ray.data.library import SYNTHETIC
from usseg_ray.engine.optimiser import Optimiser
from usseg_ray.features.backbones import feature_spec
from usseg_ray.features.block import ReadBlock
from usseg_ray.methods import METHODS
from usseg_ray.methods.base import Method
from usseg_ray.sweeps.defaults import data_defaults

DIM, GRID, PATCH = 12, (4, 4), 8
SIDE = GRID[0] * PATCH
with torch.random.fork_rng():
    torch.manual_seed(0)
    NETWORK = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, embed_dim=DIM, depth=1, num_heads=3, num_classes=0
    )
    """Its one block is what methods may copy; nothing else of it is used."""
FEATURES = FeatureSpec(
    dim=DIM,
    patch_size=PATCH,
    has_attention=True,
    grid=4,
    eval_grid=4,
    block=lambda: ReadBlock(NETWORK, 0),
)
NUM_CLUSTERS = 4

SMALL: dict[str, dict[str, Any]] = {
    "picie": {
        "network": {"name": "test_resnet", "pretrained": False},
        "cluster_batch": 4,
        "init_batches": 2,
        "kmeans_iterations": 3,
    },
    "stego": {"dim": 8, "feature_samples": 3, "negatives": 2},
    "hp": {"dim": 8, "pool_size": 16, "renewal_steps": 2, "ramp_start": 0},
    "cause": {"num_codes": 6, "dim": 8, "projection_dim": 10, "window": 2, "ffn_dim": 16},
    "smooseg": {"dim": 8},
    "equss": {
        "dim": 8,
        "subspaces": 2,
        "codebook_size": 6,
        "feature_samples": 3,
        "negatives": 2,
    },
    "ppap": {"split": 4},
}
"""What makes a method small, in all of its cases."""

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "picie": [
        {"variant": "mdc"},
        {"variant": "mdc", "mdc_classifier": "centroids", "class_weights": "balanced"},
        {"variant": "over_clustering", "over_clusters": 6, "mse": True, "class_weights": "none"},
    ],
    "stego": [
        {"clustering": "probe"},
        {"pointwise": False, "zero_clamp": False, "stabilise": True, "dropout": 0.0},
        {"context": 0.75},
        {"clustering": "auto"},
    ],
    "hp": [
        {"clustering": "probe", "denominator_share": 0.5},
        {"affinity": "cosine", "consistency_weight": 0.0, "reweighting": False},
        {"denominator_share": 1.0},
    ],
    "cause": [{"head": "tr"}, {"clustering": "probe"}, {"clustering": "auto"}],
    "smooseg": [
        {"pointwise": False, "dropout": 0.0},
        {"clustering": "kmeans", "context": 0.75},
        {"clustering": "auto"},
    ],
    "primaps": [{"context": 0.75, "centre": True, "psi": 0.6, "renewal_steps": 1}],
    "equss": [{"clustering": "probe", "codebook_size": 3}, {"context": 0.75}],
    "ppap": [
        {"block": "new"},
        {"clustering": "probe", "rounds": 0, "dropout": 0.0},
        {"block": "new", "context": 0.75, "split": 2, "rounds": 1, "negative_step": 2.0},
    ],
    "acseg": [
        {"background": "split", "background_pool": "mean", "num_blocks": 2, "num_heads": 3},
        {"region_vector": "cls", "num_blocks": 1},
        {"context": 0.75},
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
    "kmeans": [{"spherical": False}, {"context": 0.75}],
    "colour": [{"height_weight": 0.0}],
}


class Case(NamedTuple):
    """A method and the settings that differ from its defaults."""

    method: type[Method]
    settings: dict[str, Any]

    def build(self, num_clusters: int = NUM_CLUSTERS, seed: int = 0) -> Method:
        return self.method(self.config, FEATURES, num_clusters, seed)

    @property
    def config(self) -> MethodConfig:
        small = SMALL.get(self.method.name, {})
        return self.method.Config.model_validate(small | self.settings)

    @property
    def learns_clusters(self) -> bool:
        """Whether K groups are learnt on the way instead of being found in the data set."""
        if self.method.name in {"stego", "hp", "cause", "equss", "ppap"}:
            return self.settings.get("clustering") == "probe"
        return self.method.name in {"picie", "primaps"} or (
            self.method.name == "smooseg" and "clustering" not in self.settings
        )

    @property
    def reads_features(self) -> bool:
        return self.method.needs(self.config).features


CASES = [
    Case(method, settings)
    for method in METHODS
    for settings in [{}, *VARIANTS.get(method.name, [])]
]
STAGES = [(case, stage.name) for case in CASES for stage in case.method.stages]
LEARNERS = [case for case in CASES if case.method.stages]
CASE_IDS = [f"{case.method.name}-{'-'.join(case.settings) or 'default'}" for case in CASES]
STAGE_IDS = [
    f"{case.method.name}-{'-'.join(case.settings) or 'default'}-{stage}" for case, stage in STAGES
]
LEARNER_IDS = [f"{case.method.name}-{'-'.join(case.settings) or 'default'}" for case in LEARNERS]


def check_defaults(method: type[Method]) -> None:
    """Checks what a method states of its schedule, the embedded set and textons, and builds it."""
    own, shared = method.defaults, ("data.", "train.")
    assert "train.epochs" in own.schedule or not method.stages, "a method that learns says how long"
    for stated, places in (
        (own.schedule, shared),
        (own.embedded, (*shared, "method.")),
        (own.textons, ("method.",)),
    ):
        assert all(key.startswith(places) for key in stated)
    brought = data_defaults(method, SYNTHETIC, {})
    config = build_config(method.Config, [brought])
    assert flatten(config).items() >= {**own.embedded, **own.textons}.items()
    specification = feature_spec(config.backbone, config.data)
    assert isinstance(method(config.method, specification, NUM_CLUSTERS, 0), method)
    prepared = flatten(build_config(method.Config, [data_defaults(method, "a-set", {})]))
    assert prepared.items() >= own.schedule.items()


def make_batch(images: Sequence[int], step: int = 0) -> Batch:
    """Builds images of four textures in random places; an image depends on its number alone.

    Whatever a method may need is there; an image's neighbour is the one a thousand numbers on.
    """
    looks = [look(image) for image in images]
    pixels = torch.stack([pixels for _, pixels in looks])
    saliency = torch.stack([torch.rand(GRID, generator=random_of("saliency", i)) for i in images])
    local = torch.stack([torch.rand(9, *GRID, generator=random_of("local", i)) for i in images])
    tokens = torch.stack([tokens for tokens, _ in looks])
    noise = [torch.randn(DIM, *GRID, generator=random_of("noise", i)) for i in images]
    return Batch(
        ids=tuple(f"image-{image}" for image in images),
        pixels=pixels,
        features=FeatureMap(tokens, saliency, local, block_input(tokens)),
        step=Step(step, 20, step),
        augmented=FeatureMap(tokens + 0.1 * torch.stack(noise)),
        positive=FeatureMap(torch.stack([look(image + 1000)[0] for image in images])),
        pair=make_pair(images, pixels),
        crop_tokens=lambda boxes: torch.stack(
            [
                tokens[image, :, top // PATCH : bottom // PATCH, left // PATCH : right // PATCH]
                .flatten(1)
                .mean(1)
                for image, left, top, right, bottom in boxes.tolist()
            ]
        ),
    )


def block_input(tokens: Tensor) -> BlockInput:
    """Makes what goes into a block of patches, behind a CLS token."""
    patches = tokens.flatten(2).mT
    return BlockInput(torch.cat([patches.mean(1, keepdim=True), patches], 1))


def look(image: int) -> tuple[Tensor, Tensor]:
    """Draws an image's tokens (DIM, *GRID) and pixels."""
    centres = torch.randn(4, DIM + 3, generator=random_of("centres"))
    random = random_of("image", image)
    labels = torch.randint(0, 4, GRID, generator=random)
    both = centres[labels] + 0.3 * torch.randn(*GRID, DIM + 3, generator=random)
    both = both.permute(2, 0, 1)
    pixels = both[DIM:].sigmoid().repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    return both[:DIM], pixels


def make_pair(images: Sequence[int], pixels: Tensor) -> Pair:
    """Makes two square views of images, one darker than the other."""
    second = pixels[:, :, :SIDE, :SIDE]
    geometry = torch.stack(
        [torch.rand(4, generator=random_of("geometry", i)) for i in images]
    ).double()
    return Pair(
        first=0.8 * second.repeat_interleave(2, 2).repeat_interleave(2, 3),
        second=second,
        crop=torch.cat([0.5 + geometry[:, :1] / 2, geometry[:, 1:3]], dim=1),
        flip=geometry[:, 3] > 0.5,
    )


def random_of(*key: int | str) -> torch.Generator:
    """Makes the generator of one part of an image."""
    return shared_generator("contract", *key)


class Walks:
    """Walks over given images in batches, as the engine's walks over a data set."""

    def __init__(self, images: Sequence[int], batch_size: int = 2) -> None:
        self.images, self.batch_size = images, batch_size

    def __call__(self, only: Collection[str] | None = None) -> Iterator[Batch]:
        chosen = [i for i in self.images if only is None or f"image-{i}" in only]
        return type(self)(chosen, self.batch_size).crops(0, self.batch_size)

    def names(self) -> list[str]:
        return [f"image-{image}" for image in self.images]

    def crops(self, walk: int, batch_size: int) -> Iterator[Batch]:  # noqa: ARG002
        for start in range(0, len(self.images), batch_size):
            yield make_batch(self.images[start : start + batch_size])


class Given:
    """Walks over batches that a test made."""

    def __init__(self, *batches: Batch) -> None:
        self.batches = batches

    def __call__(self, only: Collection[str] | None = None) -> Iterator[Batch]:
        return (b for b in self.batches if only is None or not set(only).isdisjoint(b.ids))

    def names(self) -> list[str]:
        return [name for batch in self.batches for name in batch.ids]

    def crops(self, walk: int, batch_size: int) -> Iterator[Batch]:  # noqa: ARG002
        return iter(self.batches)


def with_tokens(batch: Batch, tokens: Tensor) -> Batch:
    """Returns the batch with other tokens everywhere."""
    own = batch.features
    other = FeatureMap(tokens, own.saliency, own.local, block_input(tokens))
    return replace(batch, features=other, augmented=other, positive=other)


def optimizer(method: Method, stage: str) -> Optimiser:
    groups = [replace(group, lr=1e-2, warmup_steps=0) for group in method.param_groups(stage)]
    return Optimiser(groups)


def step(method: Method, stage: str, optimiser: Optimiser, images: Sequence[int]) -> Tensor:
    moment = optimiser.step_count
    method.before_step(stage, Step(moment, 20, moment), Walks(range(12)))
    loss = method.loss(make_batch(images, moment), stage).loss
    loss.backward()
    optimiser.step()
    method.after_step()
    return loss.detach()
