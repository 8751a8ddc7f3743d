"""Which share of training on stored features is learning, and what computing them would take.

Off an image's path. Methods are fitted by the engine as a trial fits them, on stored features of
random values, so that nothing waits for a backbone: what is left beside learning is reading batches
and planning them.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from usseg_ray import methods
from usseg_ray.bench.inputs import random_backbone, write_set
from usseg_ray.bench.meter import Measure, apart
from usseg_ray.core.config import build_config, flatten
from usseg_ray.data.reader import crops_of
from usseg_ray.data.reading import view_name
from usseg_ray.data.transforms import Frame
from usseg_ray.engine.context import PlainContext
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.store.blocks import save_manifest, write_shard
from usseg_ray.features.store.extraction import Wanted, want
from usseg_ray.features.store.folder import FOLDER
from usseg_ray.features.store.recipe import Views, parts_of
from usseg_ray.features.store.store import default_store
from usseg_ray.ops.photometric import drawn_view
from usseg_ray.scoring.evaluation import Evaluation
from usseg_ray.trials.job import HERE, Job, Placement, StoredView
from usseg_ray.trials.worker import build_run

SIDE = 224
BACKBONE = "vit_small_patch16_224"
METHODS, COMPARED = ("acseg", "hp", "stego"), "stego"
LEARNING_SHARE = 85.0
"""Percent of an epoch that forward, backward and step shall have."""

_NEVER = 10**9


def training_bars(images: int = 32) -> Iterator[Measure]:
    """Times an epoch of each method on stored features, and one that computes them.

    Args:
        images: Of the training split.

    Yields:
        Percent of the epoch that is not spent on batches; of one method the seconds of both epochs.
    """
    runs = [(method, True) for method in METHODS] + [(COMPARED, False)]
    *epochs, (computed, _) = apart(_epochs, runs, images)
    for method, (stored, batches) in zip(METHODS, epochs, strict=True):
        share = 100 * (1 - batches / stored)
        yield Measure(
            "features",
            f"train {method} on stored features: forward, backward, step",
            share,
            "%",
            "the whole epoch",
            100.0,
            LEARNING_SHARE / 100,
        )
        if method == COMPARED:
            seen = f"an epoch of {images} images, {BACKBONE}, bfloat16"
            yield Measure(
                "features",
                f"train {method} on stored features: {seen}",
                stored,
                "s",
                "features computed in every pass",
                computed,
            )


class _EnoughError(Exception):
    """The epoch that counts is over."""


class _TwoEpochs(PlainContext):
    """Ends a run after its second epoch, the first one with warm caches, unscored."""

    def report(
        self, metrics: dict[str, float], state: dict[str, Any], evaluation: Evaluation | None
    ) -> None:
        """Keeps the metrics."""
        super().report(metrics, state, evaluation)
        if metrics["epoch"] >= 2:
            raise _EnoughError


def _epochs(runs: list[tuple[str, bool]], images: int) -> list[tuple[float, float]]:
    return [_epoch(method, images, BACKBONE, stored) for method, stored in runs]


def _epoch(method: str, images: int, backbone: str, stored: bool) -> tuple[float, float]:
    """Measures the seconds of an epoch, and those of its batches."""
    context = _TwoEpochs(torch.device("cpu"), [])
    with tempfile.TemporaryDirectory(prefix="usseg-bench-") as place, suppress(_EnoughError):
        os.environ[FOLDER] = str(Path(place, "store"))
        job = _job(Path(place), method, images, backbone)
        build_run(job if stored else replace(job, placement=HERE), context).fit()
    last = context.history[-1]
    return last["train_seconds"], last["input_seconds"]


def _job(folder: Path, method: str, images: int, backbone: str) -> Job:
    """Writes a set of images and random features of all views that training looks at."""
    network, root = random_backbone(folder, backbone), str(folder / "set")
    manifest = write_set(folder / "set", {"train": images})
    settings: dict[str, Any] = {
        **flatten(network, "backbone."),
        "data.train_size": SIDE,
        "data.eval_size": SIDE,
        "data.crops": "centre",
        "data.flip": False,
        "data.view_draws": 1,
        "num_clusters": 11,
        "train.epochs": 3,
        "train.batch_size": 16,
        "train.eval_every": _NEVER,
        "resources.precision": "bfloat16",
    }
    kind = methods.get(method)
    config = build_config(kind.Config, [settings])
    needs, crops, frame = kind.needs(config.method), crops_of(config.data), Frame(SIDE)
    model = build_backbone(network)
    views: dict[str, dict[str, Any]] = {
        view_name(frame, crops): {"crops": crops, "parts": parts_of(needs)},
        view_name(frame, None): {"parts": parts_of(needs)},
    }
    if needs.photometric is not None:
        drawn = Views(draws=1, jitter=needs.photometric)
        name = drawn_view(view_name(frame, crops), 1, needs.photometric)
        views[name] = {"crops": crops, "views": drawn}
    stored = []
    for view, options in views.items():
        wanted = want(
            root, manifest, "train", network, model, frame=frame, arithmetic="bfloat16", **options
        )
        _fill(wanted)
        stored.append(StoredView("train", view, wanted.entry.key, "views" in options))
    return Job(method, config, root, Placement(stored=tuple(stored)))


def _fill(wanted: Wanted) -> None:
    """Stores random features in place of computed ones."""
    random, entry = np.random.default_rng(0), wanted.entry
    folder = default_store().folder.path(entry.key)
    save_manifest(entry, folder)
    for part in wanted.parts:
        for shard in range(entry.num_shards):
            first, last = entry.images_of(shard)
            rows = random.standard_normal((last - first, *entry.shape(part)), np.float32)
            names = [f"train_{row:06d}" for row in range(first, last)]
            write_shard(folder, part, shard, names, rows.astype(np.float16))
