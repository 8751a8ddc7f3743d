"""What stands beside every score: the floors, k-means on the same features, the linear ceiling.

A method that does not beat `position` and `colour` has learnt nothing from the images; one that
does not beat `image` tells images apart, not what is in them. `kmeans` says what its features give
as they are, `kmeans_context` what they give averaged within their image, which learns nothing;
`linear` (supervised) says what they could give.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from usseg_ray import methods
from usseg_ray.core.config import Config, MethodConfig, build_config, flatten
from usseg_ray.core.table import RowKind, TableRow
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.run import Run, assemble
from usseg_ray.ops import context
from usseg_ray.scoring.protocols import PLAIN
from usseg_ray.settings import FLOORS, IMAGE

KMEANS, IN_CONTEXT = "kmeans", "kmeans_context"

CLUSTERERS = (*FLOORS, KMEANS, IN_CONTEXT)

CEILING = "linear"

BASELINES = (*CLUSTERERS, CEILING)

Baselines = dict[str, dict[str, float]]

"""Split -> baseline -> unsupervised mIoU (`linear`: supervised mIoU), percent."""


def compute_baselines(
    config: Config[MethodConfig],
    data: OpenSet,
    device: torch.device,
    *,
    splits: Sequence[str] = (),
    names: Sequence[str] = BASELINES,
) -> Baselines:
    """Scores the baselines of a data set under a run's protocol and backbone.

    K is the number of classes, whatever K the trials sweep.

    Args:
        config: Settings of any trial; data, backbone, seed and batch sizes are taken from it.
        data: A set with classes.
        device: Where to compute.
        splits: What to score; the selection and the test split if unset.
        names: Which of `BASELINES`.

    Returns:
        Scores on those of the splits that are there and have labels. Fewer images than classes
        have no `image`.
    """
    there = data.manifest.splits
    splits = [
        split
        for split in splits or (config.data.selection_split, config.data.test_split)
        if split in there and there[split].labelled
    ]
    found: Baselines = {split: {} for split in splits}
    clusterers = [name for name in CLUSTERERS if name in names]
    if there[config.data.train_split].rows < len(data.manifest.classes):
        clusterers = [name for name in clusterers if name != IMAGE]
    for name in clusterers:
        run = _run(name, config, data, device)
        for index, split in enumerate(splits):
            scores = run.score(split, refit=index == 0, examples=False).scores
            if scores is not None:
                found[split][name] = scores.unsup_miou
    if splits and CEILING in names and there[config.data.train_split].labelled:
        run = _run(KMEANS, config, data, device)
        # A linear probe on the tokens of the backbone.
        results = run.linear(*splits, encode=lambda batch: batch.features.tokens)
        for split, result in zip(splits, results, strict=True):
            found[split][CEILING] = result[PLAIN].scores.unsup_miou
    return found


def _run(name: str, config: Config[MethodConfig], data: OpenSet, device: torch.device) -> Run:
    method = methods.get(KMEANS if name == IN_CONTEXT else name)
    shared = {k: v for k, v in flatten(config).items() if not k.startswith("method.")}
    classes: dict[str, Any] = {"num_clusters": len(data.manifest.classes)}
    reach: dict[str, Any] = {"method.context": context.USUAL} if name == IN_CONTEXT else {}
    own = build_config(method.Config, [shared, classes, reach])
    return assemble(own, method, data, PlainContext(device=device, history=[]))


def label(name: str) -> str:
    """Says what a baseline is."""
    if name in FLOORS:
        return f"{name} (floor)"
    called = {CEILING: "linear (supervised)", IN_CONTEXT: "kmeans (context)"}
    return called.get(name, f"{name} (features)")


def baseline_rows(scores: Iterable[tuple[str, float]]) -> list[TableRow]:
    """Lists baselines as rows of any table of scores: `name` and `unsup_miou`, without a rank.

    Args:
        scores: Names and scores, percent.
    """
    return [
        TableRow({"name": label(name), "unsup_miou": score}, _kind(name)) for name, score in scores
    ]


def _kind(name: str) -> RowKind:
    return "floor" if name in FLOORS else "supervised" if name == CEILING else "features"
