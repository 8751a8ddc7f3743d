"""Rounded products as of a GPU, on a CPU: factors with the bits of TF32, sums in float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRODUCTS = {"addmm", "addmm_", "matmul", "__matmul__"}


def tf32(values: Tensor) -> Tensor:
    """Rounds float32 to 10 bits after the first."""
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class _Rounding(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in PRODUCTS:
            *rest, first, second = args
            args = (*rest, tf32(first), tf32(second))
        return func(*args, **(kwargs or {}))


@contextmanager
def as_on_a_gpu(_: torch.device) -> Iterator[None]:
    """In the place of `ops.products.rounded_products`."""
    with _Rounding():
        yield
