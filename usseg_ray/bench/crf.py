"""What refining a label map costs: guided filter, AnyUp, exact CRF beside the usual lattice code.

Off an image's path. Both refine the same generated photograph-like picture, with as many classes as
the field's tables have; the labels that they end with are compared too, since a fast refiner that
finds something else would be no reference.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from usseg_ray.bench.meter import Measure, apart, least_seconds
from usseg_ray.core.errors import UserError
from usseg_ray.core.machine import usable_cpus
from usseg_ray.data.synthetic import scene
from usseg_ray.ops.anyup import LAYOUT, AnyUp
from usseg_ray.ops.guided import guided
from usseg_ray.scoring.crf import LatticeCRF
from usseg_ray.scoring.mean_field import mean_field

_SHARPNESS = 2.0
_PATCH = 8
_TOKEN = 16
_TOKEN_WIDTH = 384
_ROUNDS = 3


def crf_bars(side: int, classes: int = 27) -> Iterator[Measure]:
    """Times both CRFs, the guided filter and AnyUp on one image, the first once, others more often.

    Args:
        side: Height and width of the image, pixels.
        classes: K.

    Yields:
        Wall time, and agreement; without `pydensecrf2` where that is not installed.
    """
    milliseconds, threads, exact = apart(_refine, side, classes)
    log_probs, pixels = make_case(side, classes)
    (filtered,) = least_seconds(lambda: guided(log_probs.exp(), pixels), rounds=_ROUNDS)
    beside = f"exact CRF, {threads} threads"
    filtering = f"guided filter, {side} px, {classes} classes"
    yield Measure("crf", filtering, 1e3 * filtered, "ms/image", beside, milliseconds)
    (upsampled,) = least_seconds(lambda: _upsample(log_probs, pixels), rounds=_ROUNDS)
    enlarging = f"AnyUp, {side} px of 16-px patches, {classes} classes"
    yield Measure("crf", enlarging, 1e3 * upsampled, "ms/image", beside, milliseconds)
    what = f"exact CRF, {side} px, {classes} classes, {threads} threads"
    try:
        pool = LatticeCRF()
    except UserError:
        absent = 'pydensecrf2, which is not installed (pip install "usseg-ray[crf]")'
        yield Measure("crf", what, milliseconds, "ms/image", absent, None)
        return
    processes = usable_cpus()
    many = [given.expand(processes, -1, -1, -1).numpy() for given in (log_probs, pixels)]
    found = list[np.ndarray]()
    with pool:
        (best,) = least_seconds(lambda: found.append(pool(*many)), rounds=_ROUNDS)
    usual = found[-1][:1].argmax(1)
    same, unchanged = (
        100 * float((usual == other).mean()) for other in (exact, log_probs.argmax(1).numpy())
    )
    lattice, usually = 1e3 * best / processes, f"pydensecrf2, {processes} processes"
    yield Measure("crf", what, milliseconds, "ms/image", usually, lattice)
    left = "labels that pydensecrf2 leaves"
    yield Measure("crf", "labels that both give", same, "%", left, unchanged)


def _upsample(log_probs: Tensor, pixels: Tensor) -> Tensor:
    """Upsamples scores of patches, by tokens as wide as a small ViT's and random weights."""
    size = tuple(side // _TOKEN for side in pixels.shape[2:])
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) / 10 for name, shape in LAYOUT.items()}
    tokens = torch.randn(1, _TOKEN_WIDTH, *size, generator=generator)
    scores = interpolate(log_probs, size=size, mode="area")
    return AnyUp(weights)(pixels / 255, tokens, scores)


def _refine(side: int, classes: int) -> tuple[float, int, np.ndarray]:
    given = make_case(side, classes)
    start = time.perf_counter()
    labels = mean_field(*given).argmax(1)
    seconds = time.perf_counter() - start
    return 1e3 * seconds, torch.get_num_threads(), labels.numpy()


def make_case(
    side: int, classes: int
) -> tuple[Float32[Tensor, "1 K H W"], UInt8[Tensor, "1 3 H W"]]:
    """Makes a picture and what a good network could say of it.

    Args:
        side: Height and width, pixels; a multiple of 8.
        classes: K, at least the classes of the built-in scenes.

    Returns:
        Log-probabilities, from true classes under noise on a grid of 8-pixel patches, and pixels.
    """
    image, label = scene(0, "test", 0)
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].contiguous()
    truth = one_hot(torch.from_numpy(label).long(), classes).permute(2, 0, 1)[None].float()
    coarse = interpolate(truth, size=(side // _PATCH, side // _PATCH), mode="area")
    noise = torch.randn(coarse.shape, generator=torch.Generator().manual_seed(0))
    cosines = (0.5 * coarse + 0.25 * noise).clamp(-1, 1)
    scores = interpolate(_SHARPNESS * cosines, size=(side, side), mode="bilinear")
    return scores.log_softmax(1), pixels
