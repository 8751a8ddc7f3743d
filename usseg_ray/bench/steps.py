"""Training steps of the six methods at the size of published settings, on random features.

Off an image's path. The engine's own epoch takes them, so that all that a run does in a step is
timed: featurising, draws, loss, gradient, optimiser and what comes after. No row is read for it:
the features lie on the device.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from usseg_ray import methods
from usseg_ray.core.config import build_config
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, Images, Needs, Rows
from usseg_ray.core.views import Crops, FixedView, Frame
from usseg_ray.engine.epoch import Epoch
from usseg_ray.engine.optimiser import Optimiser
from usseg_ray.features.featuriser import Featuriser
from usseg_ray.methods.base import Method
from usseg_ray.methods.cause import CAUSE

STAGES = {
    "picie": "train",
    "stego": "train",
    "hp": "train",
    "cause": "concepts",
    "acseg": "train",
    "smooseg": "train",
}
"""Of each method the stage that most of its steps are of."""

WAITS = {**dict.fromkeys(STAGES, 1), "cause": 4}
"""How often a step waits for a GPU, by docs/performance.md: for its loss, and for CAUSE's bank."""

_SETTINGS: dict[str, dict[str, Any]] = {
    "picie": {"network": {"pretrained": False}},
    # Task-specific positives count from the second step on, as in most steps of a run.
    "hp": {"ramp_start": 0},
}
_ENDLESS = 10**6


@dataclass(frozen=True)
class StepSizes:
    """How large steps are; the defaults are those of a ViT-S/8 at 224 px.

    Attributes:
        side: Side of the token grid.
        dim: Channels of a token.
        pixels: Side of what a network of a method's own sees.
        batch: Images of a step; as published for the method if unset.
        entries: Bank entries of each of CAUSE's codes.
        clusters: K.
    """

    side: int = 28
    dim: int = 384
    pixels: int = 224
    batch: int | None = None
    entries: int = 10
    clusters: int = 27


def training_steps(name: str, sizes: StepSizes, device: torch.device) -> Callable[[int], object]:
    """Makes training steps of a method, and takes the first ones.

    Args:
        name: Of the method.
        sizes: How large they are.
        device: Where to compute.

    Returns:
        Takes as many steps as it is told, and reads their losses once.
    """
    kind = methods.get(name)
    config = kind.Config(**_SETTINGS.get(name, {}))
    needs, count = kind.needs(config), sizes.batch or _published_batch(kind)
    spec = FeatureSpec(sizes.dim, 8, True, sizes.side, sizes.side)
    method = kind(config, spec, sizes.clusters, 0).to(device).train()
    if isinstance(method, CAUSE):
        _fill_bank(method, sizes.entries)
    known = _Known(_features(needs, sizes, count, device))
    featurise = Featuriser(None, needs, device, autocast=False, stored=known, view_draws=1)
    images = _images(needs, sizes.pixels, count)
    stage, passes = STAGES[name], _OneBatch(featurise, images)
    optimiser = Optimiser(method.param_groups(stage), _ENDLESS)

    def steps(number: int) -> object:
        epoch = Epoch(method, featurise, optimiser, passes, stage, _ENDLESS)
        return epoch.train(repeat(images, number), lambda: None)

    steps(2)
    return steps


def _published_batch(kind: type[Method]) -> int:
    return build_config(kind.Config, [kind.defaults.schedule]).train.batch_size


def _fill_bank(method: CAUSE, entries: int) -> None:
    bank = method.bank
    codes = torch.arange(len(bank.added), device=bank.added.device)
    for _ in range(entries):
        keys = torch.randn(len(codes), bank.values.shape[1], device=codes.device)
        bank.update(keys, codes, codes.float(), share=1.0)


def _features(needs: Needs, sizes: StepSizes, count: int, device: torch.device) -> FeatureMap:
    grid = (sizes.side, sizes.side)
    tokens = torch.randn(count, sizes.dim, *grid, device=device)
    local = torch.rand(count, 9, *grid, device=device) if needs.local_attention else None
    return FeatureMap(tokens, local=local)


def _images(needs: Needs, side: int, count: int) -> Images:
    """Makes images whose features are stored, or pairs of views of noise."""
    names = tuple(map(str, range(count)))
    if needs.pair is not None:
        second, first = _noise(count, side), _noise(count, 2 * side)
        geometry = torch.tensor([[0.5, 0.3, 0.6, 1.0]], dtype=torch.float64).repeat(count, 1)
        return Images(names, second, first=first, geometry=geometry)
    numbers, unseen = torch.arange(count), _noise(count, 0)
    rows = Rows("train", FixedView.of(Frame(side), Crops("centre")), numbers, 0 * numbers)
    if not needs.neighbours:
        return Images(names, unseen, rows=rows)
    return Images(names, unseen, positive=unseen, rows=rows, positive_rows=rows)


def _noise(count: int, side: int) -> Tensor:
    random = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (count, 3, side, side), generator=random, dtype=torch.uint8)


@dataclass(frozen=True)
class _Known:
    """Finds the same features of all rows."""

    features: FeatureMap
    views: Collection[tuple[str, FixedView]] = ()

    def __call__(self, rows: Rows, needs: Needs) -> FeatureMap:  # noqa: ARG002
        return self.features

    def begin(self, rows: Rows, needs: Needs) -> Callable[[], FeatureMap]:  # noqa: ARG002
        return lambda: self.features

    def variant(
        self,
        rows: Rows,  # noqa: ARG002
        needs: Needs,  # noqa: ARG002
        name: str,  # noqa: ARG002
        compute: Callable[[], FeatureMap],
    ) -> FeatureMap:
        return compute()


@dataclass(frozen=True)
class _OneBatch:
    """Walks over one batch."""

    featurise: Featuriser
    images: Images

    def __call__(self, only: Collection[str] | None = None) -> Iterator[Batch]:  # noqa: ARG002
        yield self.featurise(self.images)

    def names(self) -> list[str]:
        return list(self.images.ids)

    def crops(self, walk: int, batch_size: int) -> Iterator[Batch]:  # noqa: ARG002
        """Names the images anew, so that a pool takes other patches of them."""
        names = tuple(f"{walk}/{name}" for name in self.images.ids)
        yield self.featurise.crops(replace(self.images, ids=names))
