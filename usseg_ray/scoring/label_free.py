"""Judges a clustering without labels, by what it does to a few fixed training images.

It stands beside `evaluation`: a trial's epochs are scored against labels where there are some, and
judged by these criteria always, so that trials can be ranked where nothing is labelled. All trials
of a sweep are shown the same images, the same positions in them and the same second views; nothing
here draws from a generator that a method could notice. docs/choosing_k.md has the formulas.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from math import log

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import interpolate

from usseg_ray.core.config import JitterConfig
from usseg_ray.core.distributed import all_gather, shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.core.keys import key_seed
from usseg_ray.core.types import Batch, Images
from usseg_ray.data.plans import spread
from usseg_ray.data.reader import Reader
from usseg_ray.data.recolour import adjust, draw_recolouring
from usseg_ray.features.featuriser import Featuriser
from usseg_ray.methods.base import CodeClassifier, Method
from usseg_ray.ops.kmeans import assign, kmeans
from usseg_ray.ops.modularity import affinity, graph, hard_modularity
from usseg_ray.ops.sampling import PointSample
from usseg_ray.scoring.objective import (
    ENTROPY,
    MODULARITY,
    SILHOUETTE,
    STABILITY,
    USED_SHARE,
    VIEW_AGREEMENT,
    VIEW_INFORMATION,
)
from usseg_ray.scoring.partitions import (
    adjusted_rand_index,
    centroid_silhouette,
    evenness,
    mutual_information,
    shares,
)
from usseg_ray.scoring.prediction import label_map

NUM_IMAGES = 32
VIEWED = 4
"""Every so manieth of the images is also shown through a second view."""
NUM_POINTS = 2048
REFITS = 4
"""Clusterings that `stability` compares with each other, each fitted to half of the points."""
REFIT_ITERATIONS = 20
GRID = 32
"""Side of the label maps that trials are compared on."""
KEY = "label_free"
SECOND_VIEW = "mirrored and recoloured, 1"
"""Names what `second_views` does; its number rises when that changes."""


# A run's judge: the fixed images, and what a clustering does to them.


@dataclass(frozen=True)
class Judgement:
    """What was found of one clustering.

    Attributes:
        metrics: Criteria by name.
        maps: (n, GRID, GRID) int16, the cluster of every cell of the fixed images, in their order.
    """

    metrics: dict[str, float]
    maps: np.ndarray


@dataclass(frozen=True)
class _FixedImages:
    """A batch of fixed images, their numbers in the split, and the second view of some of them."""

    batch: Batch
    numbers: Int64[Tensor, " B"]
    view: Batch | None
    viewed: Int64[Tensor, " v"]

    @property
    def num_bytes(self) -> int:
        """What it takes to keep them."""
        batches = [batch for batch in (self.batch, self.view) if batch is not None]
        tensors = [tensor for batch in batches for tensor in (batch.pixels, batch.features.tokens)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Judge:
    """Judges a run's clusterings; all workers ask it together and get the same answer.

    Features of the fixed images come from a frozen backbone, so they are computed once a run where
    they can be kept in memory. The images and their order do not depend on the number of workers.

    Args:
        featurise: Images to batches.
        reader: This worker's data.
        batch_size: Images in a batch.
        keep_bytes: Most memory for what is kept between two judgements.
    """

    def __init__(
        self, featurise: Featuriser, reader: Reader, *, batch_size: int, keep_bytes: int
    ) -> None:
        self._featurise, self._reader = featurise, reader
        self._batch_size, self._keep_bytes = batch_size, keep_bytes
        self._kept: list[_FixedImages] | None = None

    @torch.no_grad()
    def __call__(self, method: Method) -> Judgement:
        """Judges a method whose clusters are fitted; it is left as it was.

        Args:
            method: In evaluation mode.

        Returns:
            Every criterion that can be had: a method without a frozen backbone has no modularity.
        """
        # Gathered image by image: label maps, those of two views, and a sample of points.
        device = self._featurise.device
        maps = [torch.empty(0, GRID, GRID, dtype=torch.int64, device=device)]
        first, second, numbers = list(maps), list(maps), [maps[0].new_zeros(0)]
        points = _Points(device)
        for fixed in self._fixed():
            # Points carry the scores too where it is not the codes that were clustered.
            codes, scores = _codes_and_scores(method, fixed.batch)
            clustered = codes[:, :0] if isinstance(method, CodeClassifier) else scores
            points.add(fixed.batch, codes, clustered, label_map(scores, _size(codes)))
            maps.append(label_map(scores, (GRID, GRID)))
            numbers.append(fixed.numbers.to(device))
            # Both views on one grid, the second mirrored back.
            if fixed.view is not None:
                _, mirrored = _codes_and_scores(method, fixed.view)
                first.append(maps[-1][fixed.viewed])
                second.append(label_map(mirrored, (GRID, GRID)).flip(-1))
        # Joined over the workers; maps in the order of the split, so trials can be compared.
        codes, clustered, tokens, parts = points.gather()
        order = all_gather(torch.cat(numbers)).argsort()
        found = all_gather(torch.cat(maps))[order].cpu()
        one, other = (all_gather(torch.cat(part)).flatten().cpu() for part in (first, second))
        # The criteria, each from what it needs of these.
        share = shares(found.flatten(), method.num_clusters)
        metrics = {
            STABILITY: stability(clustered if clustered.shape[1] else codes, method.num_clusters),
            VIEW_AGREEMENT: agreement(one, other),
            VIEW_INFORMATION: mutual_information(one, other) / log(method.num_clusters),
            SILHOUETTE: centroid_silhouette(codes, parts),
            ENTROPY: evenness(share),
            USED_SHARE: float((share > 0).double().mean()),
        }
        # Modularity is of backbone tokens; a network of its own has none.
        if tokens.shape[1]:
            pooled = graph(affinity(tokens[None]))
            metrics[MODULARITY] = float(hard_modularity(parts[None], pooled)[0])
        return Judgement(metrics, found.numpy().astype(np.int16))

    def _fixed(self) -> Iterator[_FixedImages]:
        if self._kept is not None:
            yield from self._kept
            return
        # A frozen backbone gives the same features each time: kept as long as they fit.
        kept: list[_FixedImages] | None = []
        for images in self._reader.few(
            self._reader.config.train_split, NUM_IMAGES, self._batch_size
        ):
            fixed = self._prepare(images)
            if kept is not None:
                kept.append(fixed)
                kept = kept if sum(one.num_bytes for one in kept) <= self._keep_bytes else None
            yield fixed
        self._kept = kept

    def _prepare(self, images: Images) -> _FixedImages:
        if images.rows is None:
            raise TypeError("images that are shown whole have rows")
        info = self._reader.manifest.splits[self._reader.config.train_split]
        # Which images have a second view is a matter of the split, not of this worker's share.
        twice = set(spread(info.rows, NUM_IMAGES // VIEWED))
        numbers = images.rows.numbers
        viewed = [index for index, number in enumerate(numbers.tolist()) if number in twice]
        chosen = torch.tensor(viewed, dtype=torch.int64)
        names = tuple(images.ids[index] for index in viewed)
        shown = Images(names, second_views(images.pixels[chosen], names))
        rows = replace(images.rows, numbers=numbers[chosen], crops=images.rows.crops[chosen])
        # A backbone need not know what to make of no image.
        view = self._featurise.variant(shown, rows, SECOND_VIEW) if viewed else None
        return _FixedImages(self._featurise(images), numbers, view, chosen)


class _Points:
    """A sample of positions of all fixed images, with everything that is known of each.

    A worker that has none of the images learns from the others what a position is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._dims = torch.zeros(1, 3, dtype=torch.int64, device=device)
        self._sample: PointSample | None = None

    def add(
        self,
        batch: Batch,
        codes: Float[Tensor, "B C h w"],
        clustered: Float[Tensor, "B E h2 w2"],
        parts: Int64[Tensor, "B h w"],
    ) -> None:
        """Offers every position of some images' codes.

        Args:
            batch: The images.
            codes: (B, C, h, w).
            clustered: (B, E, h2, w2) what the clusters were found by, where that is not `codes`.
            parts: (B, h, w) cluster of every position.
        """
        size = _size(codes)
        known = [codes, *(_resized(part, size) for part in (clustered, batch.features.tokens))]
        self._dims[0] = torch.tensor([part.shape[1] for part in known])
        points = torch.cat([*(part.float() for part in known), parts[:, None].float()], dim=1)
        if self._sample is None:
            self._sample = PointSample(points.shape[1], NUM_POINTS, self._device)
        self._sample.add_maps(points, batch.ids, KEY)

    def gather(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Joins the workers' samples: codes, what is clustered, tokens, and clusters (n,)."""
        dims = all_gather(self._dims).amax(0).tolist()
        sample = self._sample or PointSample(sum(dims) + 1, NUM_POINTS, self._device)
        codes, clustered, tokens, parts = sample.gather().cpu().split([*dims, 1], dim=1)
        return codes, clustered, tokens, parts[:, 0].long()


# What the criteria are made of.


def second_views(pixels: Tensor, ids: tuple[str, ...]) -> Tensor:
    """Shows images mirrored and in other colours, drawn by their names alone.

    Args:
        pixels: (B, 3, H, W) uint8.
        ids: One name per image.

    Returns:
        (B, 3, H, W) uint8.
    """
    shown = torch.empty_like(pixels)
    for index, name in enumerate(ids):
        draws = draw_recolouring(np.random.default_rng(key_seed(KEY, "view", name)), JitterConfig())
        coloured = adjust(pixels[index].permute(1, 2, 0).numpy(), draws)
        shown[index] = torch.tensor(coloured).permute(2, 0, 1)
    return shown.flip(-1)


def agreement(one: Int64[Tensor, "n"], other: Int64[Tensor, "n"]) -> float:
    """Compares two clusterings of the same positions.

    Args:
        one: (n,) cluster of every position.
        other: (n,) of another clustering.

    Returns:
        Their adjusted Rand index; 0 where either is a single cluster, which agrees with itself
        however it came about.
    """
    if not len(one) or one.min() == one.max() or other.min() == other.max():
        return 0.0
    return adjusted_rand_index(one, other)


def stability(codes: Float[Tensor, "n C"], num_clusters: int) -> float:
    """Says whether codes have K groups that are found again from other halves and seeds.

    Args:
        codes: (n, C) codes, of any length.
        num_clusters: K.

    Returns:
        Mean adjusted Rand index of all pairs of `REFITS` clusterings, on all points; each was
        fitted by k-means, seeded anew, to one half of the points, two to complementary halves. 0
        where a half has fewer than K distinct codes.
    """
    labels = []
    for refit in range(REFITS):
        order = torch.randperm(len(codes), generator=shared_generator(KEY, "half", refit // 2))
        half = order[: len(codes) // 2] if refit % 2 else order[len(codes) // 2 :]
        try:
            fitted = kmeans(
                codes[half],
                num_clusters,
                refit,
                spherical=True,
                restarts=1,
                iterations=REFIT_ITERATIONS,
            )
        except UserError:
            return 0.0
        labels.append(assign(codes, fitted.centroids, spherical=True))
    indices = [agreement(one, other) for one, other in combinations(labels, 2)]
    return sum(indices) / len(indices)


def _codes_and_scores(method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns codes and cluster scores."""
    codes = method.encode(batch)
    if isinstance(method, CodeClassifier):
        return codes, method.upsampled_later(codes)
    return codes, method.predict(batch)


def _resized(maps: Float[Tensor, "B C h w"], size: tuple[int, int]) -> Float[Tensor, "B C h2 w2"]:
    if not maps.shape[1]:
        return maps.new_zeros(len(maps), 0, *size)
    if _size(maps) == size:
        return maps
    return interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
