"""Random numbers of images: keyed by what they are for, so that no batch or worker changes them."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.keys import key_seed

_BITS = 24


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
    places = torch.arange(prod(shape), dtype=torch.int32, device=device)
    bound, rows = round(share * 2**_BITS), []
    for name in ids:
        seed = key_seed(*key, name)
        low, high = _signed(seed), _signed(seed >> 32)
        drawn = _hashed(_hashed(places ^ low) + high).bitwise_and_(2**_BITS - 1)
        rows.append((drawn < bound).view(*shape))
    return torch.stack(rows)


def _hashed(numbers: Int32[Tensor, "n"]) -> Int32[Tensor, "n"]:
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
