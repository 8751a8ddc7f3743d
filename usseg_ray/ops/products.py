"""Products whose factors a GPU may round: for sums of many, not for numbers that are compared.

A GPU multiplies float32 several times as fast where it may round the factors to 11 bits (TF32); it
adds up in float32 all the same. Masks that come from comparing similar numbers would change.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass
class _Permission:
    given: bool = False


# Of the process: a gradient is computed in a thread of torch's own.
_PERMISSION = _Permission()


@contextmanager
def rounding(*, allowed: bool) -> Iterator[None]:
    """Says whether `rounded_products` may round in a block, its gradients included."""
    before, _PERMISSION.given = _PERMISSION.given, allowed
    try:
        yield
    finally:
        _PERMISSION.given = before


@contextmanager
def rounded_products(device: torch.device) -> Iterator[None]:
    """Has a GPU round the factors of float32 products in a block, where this is allowed.

    Args:
        device: Where the products are computed; on a CPU nothing changes.
    """
    if device.type != "cuda" or not _PERMISSION.given:
        yield
        return
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    try:
        yield
    finally:
        matmul.allow_tf32 = before
