"""Joint batch norm is torch's own in one process; two joint walks are one after the other."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from usseg_ray.methods.parts import joint
from usseg_ray.methods.parts.joint import (
    JointBatchNorm,
    SecondStatistics,
    joint_moments,
    mean_squared_difference,
    weighted_cross_entropy,
)


def norm(channels: int = 4) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2, generator=random)
        layer.bias.normal_(generator=random)
    return layer


def images(count: int = 6) -> Tensor:
    return 3 * torch.randn(count, 4, 5, 7, generator=torch.Generator().manual_seed(1)) + 2


@pytest.mark.parametrize("grad", [True, False])
def test_one_process_gets_torchs_result(grad: bool) -> None:
    plain, own = norm(), norm()
    expected = plain(images())
    with torch.set_grad_enabled(grad), JointBatchNorm():
        found = own(images())
    torch.testing.assert_close(found, expected)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(own.named_buffers())[name], buffer)


def test_workers_are_asked_once_how_many_images_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def row_counts(x: Tensor) -> list[int]:
        asked.append(len(x))
        return [len(x)]

    monkeypatch.setattr(joint, "row_counts", row_counts)
    network = nn.Sequential(norm(), norm(), norm())
    with JointBatchNorm(), torch.no_grad():
        network(images(3))
        network(images(3))
    with JointBatchNorm(), torch.no_grad():
        network(images(2))
    assert asked == [3, 2]


def test_evaluation_mode_is_left_alone() -> None:
    layer = norm().eval()
    with torch.no_grad(), JointBatchNorm():
        assert torch.equal(layer(images()), layer(images()))
    assert not layer.running_mean.any()  # type: ignore[union-attr]


def test_outside_nothing_changes() -> None:
    layer, x = norm(), images()
    with JointBatchNorm():
        pass
    assert torch.equal(layer(x), norm()(x))


def test_moments_do_not_depend_on_the_order_of_the_images() -> None:
    x = images(9)
    first, second = joint_moments(x), joint_moments(x[torch.randperm(9)])
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.var, second.var)
    assert first.cells == 9 * 5 * 7
    torch.testing.assert_close(first.mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(first.var, x.var((0, 2, 3), correction=0))


def test_a_constant_batch_and_a_single_value_stay_finite() -> None:
    layer = norm()
    with JointBatchNorm():
        flat = layer(torch.full((2, 4, 3, 3), 7.0))
        lone = layer(torch.rand(1, 4, 1, 1, requires_grad=True))
    lone.sum().backward()
    # A mean may miss the constant by a bit, which the smallest deviation magnifies.
    torch.testing.assert_close(flat, layer.bias[:, None, None].expand_as(flat), atol=1e-3, rtol=0)
    torch.testing.assert_close(lone, layer.bias[:, None, None].expand_as(lone))
    assert all(buffer.isfinite().all() for buffer in layer.buffers())
    assert layer.bias.grad is not None


def test_images_of_a_walk_do_not_change_each_others_rounding() -> None:
    network = timm.create_model("test_resnet", features_only=True)
    x = torch.rand(5, 3, 32, 32)
    with torch.no_grad(), JointBatchNorm():
        forward = network(x)
        backward = network(x.flip(0))
    for one, other in zip(forward, backward, strict=True):
        assert torch.equal(one, other.flip(0))


def test_second_walk_is_put_behind_the_first() -> None:
    together, apart = norm(), norm()
    first = [images() + step for step in range(3)]
    second = [images() * (step + 2) for step in range(3)]
    for x in (*first, *second):
        apart(x)
    log = SecondStatistics(together)
    for one, other in zip(first, second, strict=True):
        together(one)
        with log.recording():
            together(other)
    log.append()
    for name, buffer in apart.named_buffers():
        torch.testing.assert_close(dict(together.named_buffers())[name], buffer)


def test_a_walk_that_never_came_changes_nothing() -> None:
    layer = norm()
    layer(images())
    before = copy.deepcopy(layer.state_dict())
    SecondStatistics(layer).append()
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


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
