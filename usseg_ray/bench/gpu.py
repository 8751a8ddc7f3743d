"""Every stage on a GPU beside its limit: copies, forward passes, training steps, scoring.

Off an image's path. A step stands beside two limits: the float32 peak of a matrix product, by the
products that it contains, and the time that its kernels take, which it exceeds where the device
waits for the process. Works take a device, so that a CPU runs the same code at small sizes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

from usseg_ray.bench.crf import make_case
from usseg_ray.bench.eval import evaluation_bars
from usseg_ray.bench.extraction import GPU_BACKBONES, extraction_on
from usseg_ray.bench.features import random_entry
from usseg_ray.bench.meter import (
    TERA,
    Measure,
    Work,
    host_waits,
    kernel_seconds,
    least_seconds,
    matmul_peak,
    product_flops,
    synchronised,
)
from usseg_ray.bench.steps import STAGES, WAITS, StepSizes, training_steps
from usseg_ray.bench.training import training_bars
from usseg_ray.core.errors import UserError
from usseg_ray.ops.kmeans import available_backend, kmeans
from usseg_ray.scoring.mean_field import mean_field
from usseg_ray.scoring.metrics import confusion_matrix
from usseg_ray.scoring.prediction import label_map

_MEGA, _MILLI = 1e6, 1e3
_RESTARTS, _ITERATIONS = 10, 50
"""Of the k-means before a score."""
_IGNORED = 255
_row = partial(Measure, "gpu")


@dataclass(frozen=True)
class StageSizes:
    """How large stages are; the defaults are those of a score at 320 px.

    Attributes:
        copied: Rows of a batch that is copied, of 784x384 float16.
        steps: What methods learn from.
        timed: Steps that are timed together.
        points: Points that k-means groups, of `dim` channels.
        dim: Channels of a code of HP.
        images: Images of a batch that is scored.
        side: Side of a label map, pixels.
        clusters: K.
    """

    copied: int = 32
    steps: StepSizes = field(default_factory=StepSizes)
    timed: int = 10
    points: int = 13_500
    dim: int = 512
    images: int = 16
    side: int = 320
    clusters: int = 27


def has_gpu() -> bool:
    """Says whether PyTorch sees a GPU here."""
    return torch.cuda.is_available()


def gpu_bars() -> Iterator[Measure]:
    """Measures all stages on this machine's GPU.

    Raises:
        UserError: There is none.
    """
    if not has_gpu():
        raise UserError("bench gpu: PyTorch sees no GPU here. Run it where there is one.")
    device = torch.device("cuda")
    for name in GPU_BACKBONES:
        yield from extraction_on(device, name)
    yield from stage_bars(StageSizes(), device)
    yield from training_bars(device=device.type)
    yield from evaluation_bars(device=device.type)


def stage_bars(sizes: StageSizes, device: torch.device) -> Iterator[Measure]:
    """Measures what one process does on a device.

    Args:
        sizes: How large stages are; what they stand for are the default ones.
        device: Where.
    """
    yield from copy_bars(sizes.copied, device)
    peak = matmul_peak(device, torch.float32)
    for method in STAGES:
        yield from step_bars(method, sizes, device, peak)
    yield kmeans_bar(sizes, device)
    yield from map_bars(sizes, device)
    log_probs, pixels = (one.to(device) for one in make_case(sizes.side, sizes.clusters))
    what = f"exact CRF, {sizes.side} px, {sizes.clusters} classes"
    yield _beside_peak(what, lambda: mean_field(log_probs, pixels), device, peak)


def copy_bars(count: int, device: torch.device) -> Iterator[Measure]:
    """Times stored rows on their way from mapped files to a device, beside a copy of their bytes.

    Args:
        count: Rows of a batch.
        device: Where to.
    """
    with random_entry(1) as entry:
        rows = np.random.default_rng(0).permutation(entry.manifest.rows)[:count]
        plain = torch.empty(count, *entry.manifest.shape("tokens"), dtype=torch.float16)
        plain = plain.pin_memory() if device.type == "cuda" else plain
        seconds = _seconds(
            device,
            lambda: entry.feature_map(rows, device),
            lambda: plain.to(device, non_blocking=True, copy=True),
        )
    read, copied = (plain.nbytes / _MEGA / one for one in seconds)
    what = f"stored rows to the device, {count} of 784x384, read, copied and made float32"
    yield _row(what, read, "MB/s", "a copy from pinned memory alone", copied)


def step_bars(
    method: str, sizes: StageSizes, device: torch.device, peak: float
) -> Iterator[Measure]:
    """Times training steps of a method.

    Args:
        method: Its name.
        sizes: How large steps are, and how many are timed together.
        device: Where.
        peak: FLOP/s of a float32 matrix product.

    Yields:
        TFLOP/s beside the peak, seconds beside those of the kernels, and on a GPU how often a step
        waits for it.
    """
    steps = training_steps(method, sizes.steps, device)
    timed = partial(steps, sizes.timed)
    flops = product_flops(partial(steps, 1))
    each = _seconds(device, timed)[0] / sizes.timed
    alone = kernel_seconds(timed, device) / sizes.timed
    what = f"a step of {method}"
    yield _row(what, flops / each / TERA, "TFLOP/s", "matmul peak, float32", peak / TERA)
    yield _row(what, _MILLI * each, "ms", "its kernels alone", _MILLI * alone)
    if device.type == "cuda":
        # What is read once an epoch is read twice as often in two epochs.
        once, twice = (host_waits(partial(steps, number)) for number in (1, 1 + sizes.timed))
        waits = (twice - once) / sizes.timed
        yield _row(f"{what}: waits for the GPU", waits, "waits", "those known", WAITS[method], 1.0)


def kmeans_bar(sizes: StageSizes, device: torch.device) -> Measure:
    """Times the k-means of a score beside the products of as many iterations on the device."""
    random = torch.Generator().manual_seed(0)
    points = normalize(torch.randn(sizes.points, sizes.dim, generator=random), dim=1).to(device)
    centroids = points[: sizes.clusters]

    def products() -> None:
        for _ in range(_RESTARTS * _ITERATIONS):
            points @ centroids.mT

    def cluster() -> object:
        return kmeans(points, sizes.clusters, 0, spherical=True, restarts=_RESTARTS)

    took, least = _seconds(device, cluster, products, rounds=1)
    what = f"k-means of a score, {sizes.points} points of {sizes.dim} channels"
    what = f"{what}, {_RESTARTS} starts, {available_backend(device)}"
    return _row(what, took, "s", "its products alone, on the device", least)


def map_bars(sizes: StageSizes, device: torch.device) -> Iterator[Measure]:
    """Times upsampling with the largest of K, and counting, beside passes over their bytes."""
    count, side, clusters = sizes.images, sizes.side, sizes.clusters
    scores = torch.randn(count, clusters, side // 8, side // 8, device=device)
    large = interpolate(scores, size=(side, side), mode="bilinear")
    found = torch.randint(clusters, (count, side, side), device=device)
    labels = torch.where(found % 9 == 0, _IGNORED, found)
    size = f"{count} images of {side} px, K {clusters}"

    def count_pairs() -> object:
        return confusion_matrix(found, labels, clusters, clusters, _IGNORED)

    took, least = _seconds(device, lambda: label_map(scores, (side, side)), large.clone)
    what, reference = f"upsampling with the largest, {size}", "a copy of the upsampled scores"
    yield _row(what, _MILLI * took, "ms", reference, _MILLI * least)
    took, least = _seconds(device, count_pairs, lambda: (found.clone(), labels.clone()))
    what, reference = f"confusion counts, {size}", "a copy of both maps"
    yield _row(what, _MILLI * took, "ms", reference, _MILLI * least)


def _beside_peak(what: str, work: Work, device: torch.device, peak: float) -> Measure:
    flops = product_flops(work)
    (took,) = _seconds(device, work, rounds=1)
    return _row(what, flops / took / TERA, "TFLOP/s", "matmul peak, float32", peak / TERA)


def _seconds(device: torch.device, *works: Work, rounds: int = 3) -> list[float]:
    """Times works by turns, each to its end on the device, after a first time that warms it up."""
    whole = [synchronised(work, device) for work in works]
    if device.type == "cuda":
        for work in whole:
            work()
    return least_seconds(*whole, rounds=rounds)
