"""What refining a label map costs: our exact CRF beside the usual lattice code, on one image.

Off an image's path. Both refine the same generated photograph-like picture, at the size and with
the number of classes that the field's tables have; the labels that they end with are compared too,
since a fast refiner that finds something else would be no reference.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from rich.table import Table
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from usseg_ray.bench_meter import apart
from usseg_ray.config import UserError
from usseg_ray.data.synthetic import scene
from usseg_ray.lattice_crf import LatticeCRF, usable_cpus
from usseg_ray.ops.crf import mean_field

_SHARPNESS = 2.0
_PATCH = 8
_ROUNDS = 3


@dataclass(frozen=True)
class CrfFigures:
    """Costs of refining one image, and how alike the results are.

    Attributes:
        side: Height and width of the image, pixels.
        classes: K.
        threads: Threads of the exact CRF.
        exact: Milliseconds an image.
        processes: Processes of the lattice CRF, 0 if it is not installed.
        lattice: Milliseconds an image, all processes busy; `None` if it is not installed.
        same: Pixels whose labels are equal after refining, percent.
        unchanged: Pixels whose labels the lattice CRF leaves as they were, percent.
    """

    side: int
    classes: int
    threads: int
    exact: float
    processes: int = 0
    lattice: float | None = None
    same: float | None = None
    unchanged: float | None = None


def bench_crf(side: int = 320, classes: int = 27) -> CrfFigures:
    """Times both CRFs on one image, the exact one once and the faster one a few times.

    Args:
        side: Height and width of the image, pixels.
        classes: K.

    Returns:
        Wall time and agreement; of the exact CRF alone where `pydensecrf2` is not installed.
    """
    milliseconds, threads, exact = apart(_refine, side, classes)
    ours = CrfFigures(side, classes, threads, milliseconds)
    try:
        pool = LatticeCRF()
    except UserError:
        return ours
    processes = usable_cpus()
    log_probs, pixels = make_case(side, classes)
    many = [given.expand(processes, -1, -1, -1).numpy() for given in (log_probs, pixels)]
    best = float("inf")
    with pool:
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            found = pool(*many)
            best = min(best, time.perf_counter() - start)
    usual = found[:1].argmax(1)
    same, unchanged = (
        100 * float((usual == other).mean()) for other in (exact, log_probs.argmax(1).numpy())
    )
    lattice = 1e3 * best / processes
    return replace(ours, processes=processes, lattice=lattice, same=same, unchanged=unchanged)


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


def crf_table(figures: CrfFigures) -> Table:
    """Draws the figures.

    Args:
        figures: What was measured.

    Returns:
        A row for each refiner, and one for their agreement.
    """
    table = Table("refiner", "on")
    table.title = f"Refining one {figures.side}x{figures.side} image of {figures.classes} classes"
    for column in ("figure", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    ours, threads = f"{figures.exact:.0f} ms/image", f"{figures.threads} threads"
    if figures.lattice is None:
        table.add_row("exact CRF", threads, ours, "")
        table.caption = 'pydensecrf2 is not installed (pip install "usseg-ray[crf]"): ours alone.'
        return table
    ratio = f"{figures.exact / figures.lattice:.1f}"
    table.add_row("exact CRF", threads, ours, ratio)
    table.add_row(
        "pydensecrf2", f"{figures.processes} processes", f"{figures.lattice:.0f} ms/image", "1"
    )
    table.add_row("same labels", "after refining", f"{figures.same:.2f} %", "")
    table.add_row("", "before and after pydensecrf2", f"{figures.unchanged:.2f} %", "")
    return table
