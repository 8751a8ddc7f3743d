"""Random numbers of images: keyed by what they are for, so that no batch or worker changes them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from usseg_ray.core.distributed import shared_generator


def uniforms(
    ids: Sequence[str], shape: Sequence[int], *key: int | str, device: torch.device | None = None
) -> Float[Tensor, "B ..."]:
    """Draws uniform numbers in [0, 1) for every image.

    Args:
        ids: One name per image.
        shape: Shape of one image's draws.
        key: What they are for, for example `(seed, "hp", stage, step, "dropout")`.
        device: Where the result lies; the draws themselves are made on the CPU.

    Returns:
        (B, *shape) float32; an image's row depends on key and id alone.
    """
    rows = [torch.rand(*shape, generator=shared_generator(*key, name)) for name in ids]
    return torch.stack(rows).to(device)


def dropout_mask(draws: Float[Tensor, "B ..."], probability: float) -> Float[Tensor, "B ..."]:
    """Turns uniform draws into a dropout mask.

    Args:
        draws: Uniform in [0, 1), any shape.
        probability: Share of entries to drop, below 1.

    Returns:
        0 where dropped, 1 / (1 - probability) elsewhere.
    """
    return (draws >= probability).float() / (1 - probability)
