"""What the tests of HP share: tolerances.

Those that the vectors' notes suggest: 1e-5 for values, relative where they are above 1; gradients
1e-4 of the largest entry.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Vectors = dict[str, Any]
Golden = Callable[[str], Vectors]


def close(actual: Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    """Absolute up to values of 1, relative above."""
    np.testing.assert_allclose(
        actual.detach().double().numpy(), expected, rtol=tolerance, atol=tolerance
    )


def close_gradient(actual: Tensor | None, expected: Any, tolerance: float = 1e-4) -> None:
    """A share of the gradient's largest entry."""
    assert actual is not None
    scale = max(tolerance * float(np.abs(expected).max()), 1e-9)
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=0, atol=scale)


def leaf(array: Any) -> Tensor:
    return torch.as_tensor(array).clone().requires_grad_()
