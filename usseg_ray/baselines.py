"""What stands beside every score: the floors, k-means on the same features, the linear ceiling.

A method that does not beat `position` and `colour` has learnt nothing from the images; `kmeans`
says what its features give without it, `linear` (supervised) what they could give.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from usseg_ray import methods
from usseg_ray.batch import LabelledImages
from usseg_ray.config import Config, MethodConfig, UserError, build_config, flatten
from usseg_ray.data.reading import Stream, stream_here
from usseg_ray.data.shards import Manifest
from usseg_ray.loop import PlainContext, Run, assemble
from usseg_ray.scoring import linear_ceiling

FLOORS = ("position", "colour")
CLUSTERERS = (*FLOORS, "kmeans")
CEILING = "linear"
CEILING_BATCHES = 128

Baselines = dict[str, dict[str, float]]
"""Split -> baseline -> unsupervised mIoU (`linear`: supervised mIoU), percent."""


def compute_baselines(
    config: Config[MethodConfig],
    root: str,
    manifest: Manifest,
    device: torch.device,
    stream: Stream = stream_here,
) -> Baselines:
    """Scores the baselines of a data set under a run's protocol and backbone.

    K is the number of classes, whatever K the trials sweep.

    Args:
        config: Settings of any trial; data, backbone, seed and batch sizes are taken from it.
        root: URI of the prepared set.
        manifest: Its manifest, with classes.
        device: Where to compute.
        stream: How rows are read.

    Returns:
        Scores on the selection split and, where it is there, the test split.
    """
    splits = [
        split
        for split in (config.data.selection_split, config.data.test_split)
        if split in manifest.splits and manifest.splits[split].labelled
    ]
    found: Baselines = {split: {} for split in splits}
    for name in CLUSTERERS:
        run = _run(name, config, root, manifest, device, stream)
        for index, split in enumerate(splits):
            scores = run.score(split, refit=index == 0).scores
            if scores is not None:
                found[split][name] = scores.unsup_miou
    if manifest.splits[config.data.train_split].labelled:
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
) -> Run:
    method = methods.get(name)
    shared = {k: v for k, v in flatten(config).items() if not k.startswith("method.")}
    settings: dict[str, Any] = shared | {"num_clusters": len(manifest.classes)}
    context = PlainContext(device=device, history=[])
    return assemble(
        build_config(method.Config, [settings]), method, root, manifest, context, stream
    )


def _ceiling(run: Run, split: str) -> float:
    """Trains on at most `CEILING_BATCHES` batches of the training split, scores on `split`."""
    if run.truth is None:
        raise UserError("a supervised ceiling needs labels")
    size = run.config.train.eval_batch_size

    def train() -> Iterator[LabelledImages]:
        return islice(run.reader.labelled(run.config.data.train_split, size), CEILING_BATCHES)

    scores = linear_ceiling(
        lambda images: run.featurise(images).features.tokens,
        train,
        run.reader.labelled(split, size),
        run.truth,
        seed=run.config.seed,
    )
    return scores.unsup_miou
