"""Random numbers of images: keyed by what they are for, so that no batch or worker changes them."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.keys import key_seed
from usseg_ray.ops.transfer import sent

_BITS = 24
# Draws at a time: what a core's cache holds, or enough to fill an accelerator.
_DRAWS = {"cpu": 2**20, "other": 2**26}


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
    drawn = torch.stack(rows)
    return drawn if device is None else sent(drawn, device)


def chances(
    ids: Sequence[str], shape: Sequence[int], share: float, *key: int | str, device: torch.device
) -> Bool[Tensor, "B ..."]:
    """Draws for every image what happens with a probability, on the device that needs it.

    A draw is a hash of its place and of the image's key, so that a CPU and a GPU draw the same,
    and nothing is copied from one to the other.

    Args:
        ids: One name per image.
        shape: Shape of one image's draws, fewer than 2**31.
        share: The probability, in steps of 2**-24.
        key: What they are for, as in `uniforms`.
        device: Where to draw.

    Returns:
        (B, *shape) bool; an image's row depends on key and id alone.

    Reference:
        Counter-based generators as in Salmon et al., SC 2011; the hash is the last step of
        MurmurHash3 for 32 bits (Appleby), taken twice.
    """
    seeds = [key_seed(*key, name) for name in ids]
    halves = torch.tensor([[_signed(seed), _signed(seed >> 32)] for seed in seeds]).int()
    count, bound = prod(shape), round(share * 2**_BITS)
    places = torch.arange(count, dtype=torch.int32, device=device)
    images = max(1, _DRAWS["cpu" if device.type == "cpu" else "other"] // max(1, count))
    drawn = [
        _hashed(_hashed(places ^ some[:, :1]) + some[:, 1:]).bitwise_and_(2**_BITS - 1) < bound
        for some in sent(halves, device).split(images)
    ]
    return torch.cat(drawn).view(-1, *shape)


def _hashed(numbers: Int32[Tensor, "B n"]) -> Int32[Tensor, "B n"]:
    """Mixes the bits of each number, in place; products go round at 32 bits."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        # Of negative numbers, a shift would bring in ones.
        numbers ^= (numbers >> shift) & (2 ** (32 - shift) - 1)
        numbers *= _signed(factor)
    return numbers


def _signed(number: int) -> int:
    """Reads the lower 32 bits as a signed number."""
    return (number + 2**31) % 2**32 - 2**31


def dropout_mask(draws: Float[Tensor, "B ..."], probability: float) -> Float[Tensor, "B ..."]:
    """Turns uniform draws into a dropout mask.

    Args:
        draws: Uniform in [0, 1), any shape.
        probability: Share of entries to drop, below 1.

    Returns:
        0 where dropped, 1 / (1 - probability) elsewhere.
    """
    return (draws >= probability).float() / (1 - probability)
