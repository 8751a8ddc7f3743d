"""Batch normalisation and means over the images of all workers, the same however they are split.

A network that is trained with batch statistics gives an image other features in another batch; on
several workers each would then train a network of its own kind. Here the batch is the joint one.
Statistics are added up per image in the order of their values, so not even the last bit depends on
which worker has which image. torch's own synchronised layer neither runs on the CPU nor promises
that, and it would have to be put into every timm model by hand.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from usseg_ray.core.distributed import all_gather, all_sum, row_counts, world_size


class JointMoments(NamedTuple):
    """Statistics of the joint batch, per channel.

    Attributes:
        mean: (C,) float32.
        var: (C,) float32, divided by `cells`.
        cells: Values per channel over all workers.
    """

    mean: Float[Tensor, "C"]
    var: Float[Tensor, "C"]
    cells: int


class JointBatchNorm(TorchFunctionMode):
    """While it is entered, every network normalises by the joint batch of all workers.

    All workers run the same network together, on batches of as many images as their first one: how
    many that are is asked once, so that no layer waits for a GPU. Without gradients each image is
    also convolved by itself: a convolution may round an image otherwise in another batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: list[int] | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Replaces batch normalisation, and convolution where no gradient is wanted."""
        options = kwargs or {}
        if func is batch_norm and options["training"]:
            self._counts = row_counts(args[0]) if self._counts is None else self._counts
            return _joint_batch_norm(self._counts, *args, **options)
        if func is torch.conv2d and not torch.is_grad_enabled() and len(args[0]):
            images, *rest = args
            return torch.cat([func(image[None], *rest, **options) for image in images])
        return func(*args, **options)


def _joint_batch_norm(
    counts: list[int],
    x: Float[Tensor, "B C H W"],
    running_mean: Float[Tensor, "C"],
    running_var: Float[Tensor, "C"],
    weight: Float[Tensor, "C"],
    bias: Float[Tensor, "C"],
    *,
    momentum: float,
    eps: float,
    training: bool,
) -> Float[Tensor, "B C H W"]:
    plain = torch.is_grad_enabled() and world_size() == 1 and x.numel() > x.shape[1]
    if plain:
        return batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    mean, var, cells = joint_moments(x.detach(), counts)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(var * (cells / max(cells - 1, 1)), momentum)
    standard: Tensor = _Standardise.apply(x, mean, (var + eps).rsqrt(), cells)
    return torch.addcmul(bias[:, None, None], standard, weight[:, None, None])


def joint_moments(x: Float[Tensor, "B C H W"], counts: list[int] | None = None) -> JointMoments:
    """Computes mean and variance over the joint batch; all workers call it together.

    Args:
        x: (B, C, H, W), this worker's images; there may be none.
        counts: Images of every worker, where these are known.

    Returns:
        The same bits on every worker, for any split and any order of the images.
    """
    var, mean = (part.double() for part in torch.var_mean(x, (2, 3), correction=0))
    images = all_gather(torch.cat([mean, var + mean.square()], dim=1), counts)
    # Sums of sorted values do not depend on the order in which the images came.
    first, second = images.sort(0).values.mean(0).chunk(2)
    joint_var = (second - first.square()).clamp(min=0)
    return JointMoments(first.float(), joint_var.float(), len(images) * x.shape[2] * x.shape[3])


class _Standardise(torch.autograd.Function):
    """Takes off the joint mean and divides by the joint deviation, both of which depend on x.

    The gradient is that of the sum of all workers' losses; averaging the parameters' gradients
    over the workers makes it that of their mean.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, scale: Tensor, cells: int) -> Tensor:  # noqa: ANN401
        standard = (x - mean[:, None, None]) * scale[:, None, None]
        ctx.save_for_backward(standard, scale)
        ctx.cells = cells
        return standard

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        standard, scale = ctx.saved_tensors
        own = torch.stack([grad.sum((0, 2, 3)), (grad * standard).sum((0, 2, 3))])
        level, slope = (all_sum(own) / ctx.cells)[:, :, None, None]
        return (grad - level - standard * slope) * scale[:, None, None], None, None, None


class SecondStatistics:
    """Running statistics of a second walk through a network while a first one goes on.

    The official code walks all of view 1 and then all of view 2; a joint walk reads the data once.
    Running averages are linear, so averages that start from zero can be put behind the others.

    Args:
        network: Its batch norms share one log with the first walk and get another for the second.
    """

    def __init__(self, network: nn.Module) -> None:
        self._norms = [part for part in network.modules() if isinstance(part, _BatchNorm)]
        self._logs = [
            [torch.zeros_like(running) for running in _running(norm)] for norm in self._norms
        ]
        self._steps = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Lets one training-mode pass update the second log instead of the first."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()
        self._steps += 1

    def append(self) -> None:
        """Ends the network's running statistics as if the second walk had followed the first."""
        for norm, log in zip(self._norms, self._logs, strict=True):
            kept = (1 - (norm.momentum or 0.0)) ** self._steps
            for running, late in zip(_running(norm), log, strict=True):
                running.mul_(kept).add_(late)

    def _exchange(self) -> None:
        for norm, log in zip(self._norms, self._logs, strict=True):
            first = _running(norm)
            norm.running_mean, norm.running_var = log
            log[:] = first


def _running(norm: _BatchNorm) -> list[Tensor]:
    return [tensor for tensor in (norm.running_mean, norm.running_var) if tensor is not None]


def weighted_cross_entropy(
    logits: Float[Tensor, "B K h w"], labels: Int64[Tensor, "B h w"], weights: Float[Tensor, "K"]
) -> Float[Tensor, ""]:
    """Computes the weighted mean cross-entropy over the joint batch.

    Args:
        logits: (B, K, h, w).
        labels: (B, h, w).
        weights: (K,) weight of a cell by its label.

    Returns:
        This worker's part times the number of workers, nats; 0 where all weights are 0.
    """
    part = cross_entropy(logits, labels, weights, reduction="sum")
    total = all_sum(weights[labels].sum())
    return part * world_size() / total.clamp(min=torch.finfo(total.dtype).tiny)


def mean_squared_difference(
    first: Float[Tensor, "*shape"], second: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """Computes the mean squared difference over the joint batch.

    Args:
        first: Any shape.
        second: The same shape.

    Returns:
        This worker's part times the number of workers.
    """
    part = (first - second).square().sum()
    cells = torch.full_like(part, float(first.numel()), requires_grad=False)
    return part * world_size() / all_sum(cells).clamp(min=1)
