"""Which share of training on stored features is learning, and what computing them would take.

Off an image's path. Methods are fitted by the engine as a trial fits them, on stored features of
random values, so that nothing waits for a backbone: what is left beside learning is reading batches
and planning them.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from usseg_ray import methods
from usseg_ray.bench.inputs import (
    BACKBONE,
    SIDE,
    random_backbone,
    scratch,
    storable,
    write_generated_set,
)
from usseg_ray.bench.meter import Measure, apart, faster_arithmetic
from usseg_ray.core.config import build_config
from usseg_ray.core.views import FixedView, Frame
from usseg_ray.data.reader import crops_of
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.engine.context import PlainContext
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.store.blocks import save_entry_manifest, write_feature_shard
from usseg_ray.features.store.extraction import FeatureRequest, want
from usseg_ray.features.store.folder import FOLDER
from usseg_ray.features.store.recipe import Arithmetic, Views, parts_of
from usseg_ray.features.store.store import default_store
from usseg_ray.scoring.evaluation import Evaluation
from usseg_ray.trials.job import HERE, Job, Placement, StoredView
from usseg_ray.trials.worker import build_run

METHODS, COMPARED = ("acseg", "hp", "stego"), "stego"
LEARNING_SHARE = 85.0
"""Percent of an epoch that forward, backward and step shall have."""

_NEVER = 10**9
_SMALL_POOL = {"hp": {"method.pool_size": 256}}
"""A full one takes 128 walks over 16 images, in the epoch that is not timed."""


def training_bars(images: int = 16, device: str = "cpu") -> Iterator[Measure]:
    """Times an epoch of each method on stored features, and one that computes them.

    Args:
        images: Of the training split.
        device: Where.

    Yields:
        Percent of the epoch that is not spent on batches; of one method the seconds of both epochs.
    """
    runs = [(method, True) for method in METHODS] + [(COMPARED, False)]
    arithmetic = faster_arithmetic(torch.device(device))
    *epochs, (computed, _) = apart(_epochs, runs, images, device, arithmetic)
    row = partial(Measure, "features" if device == "cpu" else "gpu")
    for method, (stored, batches) in zip(METHODS, epochs, strict=True):
        share, name = 100 * (1 - batches / stored), f"train {method} on stored features"
        what, least = f"{name}: forward, backward, step", LEARNING_SHARE / 100
        yield row(what, share, "%", "the whole epoch", 100.0, least)
        if method == COMPARED:
            what = f"{name}: an epoch of {images} images, {BACKBONE}, {arithmetic}"
            compared = "features computed in every pass"
            yield row(what, stored, "s", compared, computed)


class _TwoEpochsError(Exception):
    """The epoch that counts is over."""


class _TwoEpochs(PlainContext):
    """Ends a run after its second epoch, the first one with warm caches, unscored."""

    def report(
        self, metrics: dict[str, float], state: RunState, evaluation: Evaluation | None
    ) -> None:
        """Keeps the metrics."""
        super().report(metrics, state, evaluation)
        if metrics["epoch"] >= 2:
            raise _TwoEpochsError


def _epochs(
    runs: list[tuple[str, bool]], images: int, device: str, arithmetic: Arithmetic
) -> list[tuple[float, float]]:
    return [_epoch(method, images, BACKBONE, stored, arithmetic, device) for method, stored in runs]


def _epoch(
    method: str,
    images: int,
    backbone: str,
    stored: bool,
    arithmetic: Arithmetic,
    device: str = "cpu",
) -> tuple[float, float]:
    """Measures the seconds of an epoch, and those of its batches."""
    context = _TwoEpochs(torch.device(device), [])
    with scratch() as folder, suppress(_TwoEpochsError):
        os.environ[FOLDER] = str(folder / "store")
        job = _job(folder, method, images, backbone, arithmetic)
        build_run(job if stored else replace(job, placement=HERE), context).fit()
    last = context.history[-1]
    return last["train_seconds"], last["input_seconds"]


def _job(folder: Path, method: str, images: int, backbone: str, arithmetic: Arithmetic) -> Job:
    """Writes a set of images and random features of all views that training looks at."""
    network, root = random_backbone(folder, backbone), str(folder / "set")
    manifest = write_generated_set(folder / "set", {"train": images})
    settings: dict[str, Any] = {
        **storable(network),
        "data.view_draws": 1,
        "num_clusters": 11,
        "train.epochs": 3,
        "train.batch_size": 16,
        "train.eval_every": _NEVER,
        "resources.precision": arithmetic,
    }
    kind = methods.get(method)
    config = build_config(kind.Config, [settings, _SMALL_POOL.get(method, {})])
    needs, frame, model = kind.needs(config.method), Frame(SIDE), build_backbone(network)
    crops = FixedView.of(frame, crops_of(config.data))
    views: dict[FixedView, dict[str, Any]] = {
        crops: {"crops": crops.crops, "parts": parts_of(needs)},
        FixedView.of(frame): {"parts": parts_of(needs)},
    }
    if needs.photometric is not None:
        drawn = Views(draws=1, jitter=needs.photometric)
        view = crops.recoloured(1, needs.photometric)
        views[view] = {"crops": crops.crops, "views": drawn}
    stored = []
    for view, options in views.items():
        wanted = want(
            root, manifest, "train", network, model, frame=frame, arithmetic=arithmetic, **options
        )
        _fill(wanted)
        stored.append(StoredView("train", view, wanted.entry.key))
    return Job(method, config, root, Placement(stored=tuple(stored)))


def _fill(wanted: FeatureRequest) -> None:
    """Stores random features in place of computed ones."""
    random, entry = np.random.default_rng(0), wanted.entry
    folder = default_store().folder.path(entry.key)
    save_entry_manifest(entry, folder)
    for part in wanted.parts:
        for shard in range(entry.num_shards):
            first, last = entry.images_of(shard)
            rows = random.standard_normal((last - first, *entry.shape(part)), np.float32)
            names = [f"train_{row:06d}" for row in range(first, last)]
            write_feature_shard(folder, part, shard, names, rows.astype(np.float16))
