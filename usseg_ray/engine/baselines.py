"""What stands beside every score: the floors, k-means on the same features, the linear ceiling.

A method that does not beat `position` and `colour` has learnt nothing from the images; `kmeans`
says what its features give without it, `linear` (supervised) what they could give.
"""

from collections.abc import Sequence
from typing import Any

import torch

from usseg_ray import methods
from usseg_ray.core.config import Config, MethodConfig, build_config, flatten
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.reading import Stream, stream_here
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.run import Run, assemble
from usseg_ray.features.featuriser import Stored
from usseg_ray.scoring.protocols import PLAIN

FLOORS = ("position", "colour")

KMEANS = "kmeans"

CLUSTERERS = (*FLOORS, KMEANS)

CEILING = "linear"

BASELINES = (*CLUSTERERS, CEILING)

Baselines = dict[str, dict[str, float]]

"""Split -> baseline -> unsupervised mIoU (`linear`: supervised mIoU), percent."""


def compute_baselines(
    config: Config[MethodConfig],
    root: str,
    manifest: Manifest,
    device: torch.device,
    stream: Stream = stream_here,
    *,
    stored: Stored | None = None,
    splits: Sequence[str] = (),
    names: Sequence[str] = BASELINES,
) -> Baselines:
    """Scores the baselines of a data set under a run's protocol and backbone.

    K is the number of classes, whatever K the trials sweep.

    Args:
        config: Settings of any trial; data, backbone, seed and batch sizes are taken from it.
        root: URI of the prepared set.
        manifest: Its manifest, with classes.
        device: Where to compute.
        stream: How rows are read.
        stored: Finds features that were computed before.
        splits: What to score; the selection and the test split if unset.
        names: Which of `BASELINES`.

    Returns:
        Scores on those of the splits that are there and have labels.
    """
    splits = [
        split
        for split in splits or (config.data.selection_split, config.data.test_split)
        if split in manifest.splits and manifest.splits[split].labelled
    ]
    found: Baselines = {split: {} for split in splits}
    for name in (name for name in CLUSTERERS if name in names):
        run = _run(name, config, root, manifest, device, stream, stored)
        for index, split in enumerate(splits):
            scores = run.score(split, refit=index == 0).scores
            if scores is not None:
                found[split][name] = scores.unsup_miou
    if CEILING in names and manifest.splits[config.data.train_split].labelled:
        run = _run(KMEANS, config, root, manifest, device, stream, stored)
        for split in splits:
            found[split][CEILING] = _ceiling(run, split)
    return found


def _run(
    name: str,
    config: Config[MethodConfig],
    root: str,
    manifest: Manifest,
    device: torch.device,
    stream: Stream,
    stored: Stored | None,
) -> Run:
    method = methods.get(name)
    shared = {k: v for k, v in flatten(config).items() if not k.startswith("method.")}
    settings: dict[str, Any] = shared | {"num_clusters": len(manifest.classes)}
    context = PlainContext(device=device, history=[])
    own = build_config(method.Config, [settings])
    return assemble(own, method, root, manifest, context, stream, stored)


def _ceiling(run: Run, split: str) -> float:
    """Scores a linear probe on the tokens of the backbone."""
    results = run.linear(split, encode=lambda batch: batch.features.tokens)
    return results[PLAIN].scores.unsup_miou


def label(name: str) -> str:
    """Says what a baseline is."""
    if name in FLOORS:
        return f"{name} (floor)"
    return "linear (supervised)" if name == CEILING else f"{name} (features)"
