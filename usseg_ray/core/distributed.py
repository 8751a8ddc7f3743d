"""Statistics across workers: the identity in one process, collectives in many.

Methods and scoring cross workers through these functions only, so the same code runs in a plain
process, in a test with gloo, and under Ray Train.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from usseg_ray.core.keys import key_seed


def world_size() -> int:
    """Returns the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Returns this process's number among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_sum(value: Tensor) -> Tensor:
    """Sums a tensor over the workers; exact for integers.

    Args:
        value: Any tensor, of the same shape on every worker.

    Returns:
        The sum, a new tensor, on every worker.
    """
    total = value.clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def row_counts(value: Tensor) -> list[int]:
    """Says how many rows of a tensor each worker has; a GPU is waited for.

    Args:
        value: (n, ...); `n` may differ between workers.
    """
    if world_size() == 1:
        return [len(value)]
    rows = torch.zeros(world_size(), dtype=torch.int64, device=value.device)
    rows[rank()] = len(value)
    counts: list[int] = all_sum(rows).tolist()
    return counts


def all_gather(value: Tensor, counts: list[int] | None = None) -> Tensor:
    """Concatenates tensors over the workers in the order of their ranks.

    Args:
        value: (n, ...) any dtype; `n` may differ between workers, the rest may not.
        counts: Those of `row_counts`, where all workers know them; then no GPU is waited for.

    Returns:
        (sum of n, ...) on every worker.

    Raises:
        ValueError: The counts are those of something else.
    """
    size = world_size()
    if size == 1:
        return value
    counts = row_counts(value) if counts is None else counts
    if counts[rank()] != len(value):
        raise ValueError(f"this worker has {len(value)} rows, not {counts[rank()]}")
    longest = max(counts)
    padded = value.new_zeros((longest, *value.shape[1:]))
    padded[: value.shape[0]] = value
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Replaces every gradient by its mean over the workers (one flat all-reduce)."""
    size = world_size()
    grads = [p.grad for p in parameters if p.grad is not None]
    if size == 1 or not grads:
        return
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    flat /= size
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def broadcast(value: Tensor) -> Tensor:
    """Gives every worker rank 0's tensor, in place.

    Args:
        value: Same shape and dtype on every worker.

    Returns:
        The same tensor object, now equal everywhere.
    """
    if world_size() > 1:
        dist.broadcast(value, src=0)
    return value


def shared_generator(*key: int | str) -> torch.Generator:
    """Makes a CPU generator from a key, the same on every worker and machine.

    Args:
        key: For example `(seed, stage, step, image_id)`.

    Returns:
        A generator whose stream depends on the key alone.
    """
    return torch.Generator().manual_seed(key_seed(*key))
