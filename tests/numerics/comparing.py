"""How values and gradients are held against golden vectors, where a test has no tighter bound."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

Vectors = dict[str, Any]
Golden = Callable[[str], Vectors]


def close(actual: Tensor, expected: Any) -> None:
    """1e-5 absolute."""
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=1e-5)


def close_gradient(actual: Tensor | None, expected: Any) -> None:
    """1e-4 of the gradient's largest entry."""
    assert actual is not None
    scale = max(1e-4 * float(np.abs(expected).max()), 1e-9)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=scale)
