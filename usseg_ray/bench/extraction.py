"""How fast features are extracted into the store, beside a bare timm loop and the matmul peak.

Off an image's path. What the store adds to a forward pass (reading, decoding, framing, conversion,
hashing, writing) is what the ratio to a loop over ready pixels shows; the peak of a matrix product
at the same type, measured in the same run, shows what the machine could do at most.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from usseg_ray.bench.inputs import BACKBONE, SIDE, random_backbone, scratch, write_generated_set
from usseg_ray.bench.meter import Measure, Work, apart, least_seconds, product
from usseg_ray.core.views import Frame
from usseg_ray.features.backbones import Backbone, TimmFeatures, build_backbone
from usseg_ray.features.store.extraction import (
    BATCH_ROWS,
    FeatureRequest,
    Features,
    features_here,
    want,
)
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.store import FeatureStore

GPU_BACKBONES = ("vit_small_patch8_224", "vit_base_patch8_224")
FORWARD_SHARE, PEAK_SHARE = 0.9, 0.4
"""Of a bare loop's rate on a CPU, and of the matmul peak on a GPU, that extraction shall reach."""

_TERA = 1e12
_CPU_PRODUCT, _GPU_PRODUCT = 2048, 8192
_ROUNDS = 3
_GPU_IMAGES = 4096
_PEAK = "matmul peak, bfloat16"
_row = partial(Measure, "features")


def extraction_bars(images: int = 96, name: str = BACKBONE) -> Iterator[Measure]:
    """Times the extraction of generated images, on a CPU and, where there is one, on a GPU.

    Args:
        images: How many on the CPU.
        name: The backbone on the CPU.

    Yields:
        Rows per second beside a bare loop, and TFLOP/s beside the peak.
    """
    stored, bare, flops, peak = apart(_on_cpu, images, name)
    what = f"extract {name}, {SIDE} px, bfloat16, 2 CPU threads"
    alone = f"timm's forward alone, batches of {BATCH_ROWS}"
    yield _row(f"{what}, with decoding and writing", stored, "rows/s", alone, bare, FORWARD_SHARE)
    yield _row(what, stored * flops / _TERA, "TFLOP/s", _PEAK, peak / _TERA)
    if torch.cuda.is_available():
        for large in GPU_BACKBONES:
            yield from _on_gpu(large)


def _on_cpu(images: int, name: str) -> tuple[float, float, float, float]:
    """Measures rows per second of extraction and of a bare loop, FLOP a row, and peak FLOP/s."""
    with scratch() as folder:
        numbers = count()
        wanted, backbone = _wanted(folder, images, name)
        features = features_here(backbone, "cpu")

        def extract() -> None:
            store = FeatureStore(FeatureFolder(folder / f"store-{next(numbers)}"))
            store.obtain(wanted, features).close()

        forward, first = (
            _forward(backbone.model, count, torch.device("cpu")) for count in (images, BATCH_ROWS)
        )
        first()
        seconds = least_seconds(extract, forward, rounds=_ROUNDS)
    peak = product(_CPU_PRODUCT, torch.device("cpu"), torch.bfloat16)
    (once,) = least_seconds(peak, rounds=_ROUNDS)
    stored, bare = (images / one for one in seconds)
    return stored, bare, _flops(backbone.model), 2 * _CPU_PRODUCT**3 / once


def _on_gpu(name: str) -> Iterator[Measure]:
    # Ray: not for the process that measures the CPU.
    from usseg_ray.cluster.feature_actors import ray_features  # noqa: PLC0415
    from usseg_ray.cluster.join import local_ray  # noqa: PLC0415

    device = torch.device("cuda")
    with scratch() as folder, local_ray():
        wanted, backbone = _wanted(folder, _GPU_IMAGES, name)
        store = FeatureStore(FeatureFolder(folder / "store"))
        stored = _steady_rate(store, wanted, ray_features("cuda"))
    flops = _flops(backbone.model)
    multiply = _synchronised(product(_GPU_PRODUCT, device, torch.bfloat16))
    halved = backbone.model.half().to(device)
    eager = _synchronised(_forward(halved, _GPU_IMAGES // 4, device, torch.float16))
    for warm in (multiply, eager):
        warm()
    once, bare = least_seconds(multiply, eager, rounds=_ROUNDS)
    peak = 2 * _GPU_PRODUCT**3 / once
    what = f"extract {name}, {SIDE} px, bfloat16, {torch.cuda.get_device_name(device)}"
    yield _row(what, stored * flops / _TERA, "TFLOP/s", _PEAK, peak / _TERA, PEAK_SHARE)
    reference = f"timm's forward alone, eager, float16, batches of {BATCH_ROWS}"
    yield _row(what, stored, "rows/s", reference, _GPU_IMAGES // 4 / bare)


def _wanted(folder: Path, images: int, name: str) -> tuple[FeatureRequest, TimmFeatures]:
    config = random_backbone(folder, name)
    backbone = _timm(build_backbone(config))
    manifest = write_generated_set(folder / "set", {"train": images})
    asked = want(
        str(folder / "set"),
        manifest,
        "train",
        config,
        backbone,
        frame=Frame(SIDE),
        arithmetic="bfloat16",
    )
    return asked, backbone


def _timm(backbone: Backbone) -> TimmFeatures:
    if not isinstance(backbone, TimmFeatures):
        raise TypeError("the benchmark's backbone is one of timm's")
    return backbone


def _steady_rate(store: FeatureStore, wanted: FeatureRequest, features: Features) -> float:
    """Measures rows per second between the first shard and the last, without the actors' start."""
    marks: list[tuple[float, int]] = []
    store.obtain(
        wanted,
        features,
        lambda done, _total: marks.append((time.perf_counter(), done)),
    ).close()
    (start, first), (end, last) = marks[0], marks[-1]
    return (last - first) / (end - start)


def _forward(
    model: nn.Module, images: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Work:
    """Makes a loop over ready pixels: in bfloat16 by autocast, or as the model's own type is."""
    pixels = torch.randn(BATCH_ROWS, 3, SIDE, SIDE, device=device, dtype=dtype)
    features = _features_of(model)

    @torch.no_grad()
    def forward() -> None:
        for start in range(0, images, BATCH_ROWS):
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.float32):
                features(pixels[: images - start])

    return forward


def _features_of(model: nn.Module) -> Callable[[torch.Tensor], object]:
    # timm's own name for the forward pass without a head; torch declares every attribute a module.
    found: Any = model.forward_features
    return cast(Callable[[torch.Tensor], object], found)


def _synchronised(work: Work) -> Work:
    def run() -> None:
        work()
        torch.cuda.synchronize()

    return run


@torch.no_grad()
def _flops(model: nn.Module) -> float:
    """Counts what one image takes, at the device and type that the model has."""
    with FlopCounterMode(display=False) as counter:
        _features_of(model)(torch.randn(1, 3, SIDE, SIDE))
    return float(counter.get_total_flops())
