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

from usseg_ray.bench.inputs import BACKBONE, SIDE, random_backbone, scratch, write_generated_set
from usseg_ray.bench.meter import (
    TERA,
    Measure,
    Work,
    apart,
    faster_arithmetic,
    least_seconds,
    matmul_peak,
    product_flops,
    synchronised,
)
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
from usseg_ray.features.store.recipe import SHARD_BYTES, Arithmetic
from usseg_ray.features.store.store import FeatureStore

GPU_BACKBONES = ("vit_small_patch8_224", "vit_base_patch8_224")
FORWARD_SHARE, PEAK_SHARE = 0.9, 0.4
"""Of a bare loop's rate on a CPU, and of the matmul peak on a GPU, that extraction shall reach."""

_ROUNDS = 2
_GPU_IMAGES = 4096
_PEAK = "matmul peak"
_row = partial(Measure, "features")


def extraction_bars(images: int = 64, name: str = BACKBONE) -> Iterator[Measure]:
    """Times the extraction of generated images on a CPU.

    Args:
        images: How many.
        name: The backbone.

    Yields:
        Rows per second beside a bare loop, and TFLOP/s beside the peak.
    """
    arithmetic = faster_arithmetic(torch.device("cpu"))
    stored, bare, flops, peak = apart(_on_cpu, images, name, arithmetic)
    what = f"extract {name}, {SIDE} px, {arithmetic}, 2 CPU threads"
    alone = f"timm's forward alone, batches of {BATCH_ROWS}"
    yield _row(f"{what}, with decoding and writing", stored, "rows/s", alone, bare, FORWARD_SHARE)
    yield _row(what, stored * flops / TERA, "TFLOP/s", f"{_PEAK}, {arithmetic}", peak / TERA)


def _on_cpu(images: int, name: str, arithmetic: Arithmetic) -> tuple[float, float, float, float]:
    """Measures rows per second of extraction and of a bare loop, FLOP a row, and peak FLOP/s."""
    device = torch.device("cpu")
    with scratch() as folder:
        numbers = count()
        wanted, backbone = _wanted(folder, images, name, arithmetic)
        features = features_here(backbone, "cpu")

        def extract() -> None:
            store = FeatureStore(FeatureFolder(folder / f"store-{next(numbers)}"))
            store.obtain(wanted, features).close()

        forward, first = (
            _forward(backbone.model, count, device, autocast=arithmetic == "bfloat16")
            for count in (images, BATCH_ROWS)
        )
        first()
        seconds = least_seconds(extract, forward, rounds=_ROUNDS)
    peak = matmul_peak(device, getattr(torch, arithmetic))
    stored, bare = (images / one for one in seconds)
    return stored, bare, _flops(backbone.model), peak


def extraction_on(
    device: torch.device, name: str, images: int = _GPU_IMAGES, shard_bytes: int = SHARD_BYTES
) -> Iterator[Measure]:
    """Times the extraction of generated images on a GPU, by actors of Ray on all of its kind.

    Args:
        device: Any, for a test.
        name: The backbone.
        images: How many; those of the first shard are not timed.
        shard_bytes: Of a shard, at most.

    Yields:
        TFLOP/s beside the peak, and rows per second beside a bare loop.
    """
    # Ray: not for the process that measures the CPU.
    from usseg_ray.cluster.feature_actors import ray_features  # noqa: PLC0415
    from usseg_ray.cluster.join import local_ray  # noqa: PLC0415

    arithmetic = faster_arithmetic(device)
    with scratch() as folder, local_ray():
        wanted, backbone = _wanted(folder, images, name, arithmetic, shard_bytes)
        store = FeatureStore(FeatureFolder(folder / "store"))
        stored = _steady_rate(store, wanted, ray_features(device.type))
    flops, bare_images = _flops(backbone.model), images // 4
    loop = "float16" if device.type == "cuda" else arithmetic
    model = backbone.model.to(device, getattr(torch, loop))
    eager = synchronised(_forward(model, bare_images, device, getattr(torch, loop)), device)
    eager()
    (bare,) = least_seconds(eager, rounds=_ROUNDS)
    what = f"extract {name}, {SIDE} px, {arithmetic}, with decoding and writing"
    peak = matmul_peak(device, getattr(torch, arithmetic))
    share = PEAK_SHARE if device.type == "cuda" else None
    yield Measure(
        "gpu", what, stored * flops / TERA, "TFLOP/s", f"{_PEAK}, {arithmetic}", peak / TERA, share
    )
    reference = f"timm's forward alone, eager, {loop}, batches of {BATCH_ROWS}"
    yield Measure("gpu", what, stored, "rows/s", reference, bare_images / bare)


def _wanted(
    folder: Path,
    images: int,
    name: str,
    arithmetic: Arithmetic,
    shard_bytes: int = SHARD_BYTES,
) -> tuple[FeatureRequest, TimmFeatures]:
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
        arithmetic=arithmetic,
        shard_bytes=shard_bytes,
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
    model: nn.Module,
    images: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    autocast: bool = False,
) -> Work:
    """Makes a loop over ready pixels: in bfloat16 by autocast, or as the model's own type is."""
    pixels = torch.randn(BATCH_ROWS, 3, SIDE, SIDE, device=device, dtype=dtype)
    features = _features_of(model)

    @torch.no_grad()
    def forward() -> None:
        for start in range(0, images, BATCH_ROWS):
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                features(pixels[: images - start])

    return forward


def _features_of(model: nn.Module) -> Callable[[torch.Tensor], object]:
    # timm's own name for the forward pass without a head; torch declares every attribute a module.
    found: Any = model.forward_features
    return cast(Callable[[torch.Tensor], object], found)


@torch.no_grad()
def _flops(model: nn.Module) -> float:
    """Counts what one image takes, at the device and type that the model has."""
    pixels = torch.randn(1, 3, SIDE, SIDE)
    return product_flops(lambda: _features_of(model)(pixels))
