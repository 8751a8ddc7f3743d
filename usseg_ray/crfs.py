"""Which CRF sharpens a prediction: the exact one on a GPU, the lattice's approximation on a CPU.

Both are the fully connected CRF of Kraehenbuehl and Koltun (2011) with the parameters that the
field uses. They are not equal (docs/protocols.md), so whoever shows a score says which.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from usseg_ray.lattice_crf import LatticeCRF
from usseg_ray.ops.crf import mean_field
from usseg_ray.refine import CRF


def crf_kind(device: str) -> str:
    """Says which CRF there is on a device: `exact` or `lattice`."""
    return "lattice" if device == "cpu" and find_spec("pydensecrf") else "exact"


@contextmanager
def open_crf(device: str) -> Iterator[CRF]:
    """Gives the CRF of a device, and ends its processes after the block.

    Args:
        device: `cpu` or `cuda`.
    """
    if crf_kind(device) == "exact":
        yield mean_field
        return
    with LatticeCRF() as lattice:
        yield lambda log_probs, pixels: torch.from_numpy(lattice(log_probs, pixels))
