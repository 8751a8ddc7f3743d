"""Joint means are torch's own in one process, and finite where torch's are not."""

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from usseg_ray.ops.joint_loss import mean_squared_difference, weighted_cross_entropy


def test_one_process_gets_the_weighted_mean() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, 4, generator=random)
    labels = torch.randint(5, (2, 3, 4), generator=random)
    weights = torch.tensor([0.1, 0.0, 2.0, 0.5, 1.0])
    found = weighted_cross_entropy(logits, labels, weights)
    torch.testing.assert_close(found, cross_entropy(logits, labels, weights))


def test_labels_without_weight_cost_nothing() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    loss = weighted_cross_entropy(logits, labels, torch.tensor([0.0, 1.0, 1.0]))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_weights_cancels(scale: float) -> None:
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(16).view(1, 4, 4) % 3
    weights = torch.tensor([0.2, 0.3, 0.5])
    expected = weighted_cross_entropy(logits, labels, weights)
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, scale * weights), expected)


def test_mean_squared_difference() -> None:
    first, second = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    torch.testing.assert_close(mean_squared_difference(first, second), mse_loss(first, second))
    assert mean_squared_difference(first[:0], second[:0]) == 0
