"""Weights of an AnyUp that has learnt nothing."""

from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from usseg_ray.ops.anyup import LAYOUT


def random_weights(seed: int = 0) -> dict[str, Tensor]:
    """Draws weights whose maps stay of the size of one."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in LAYOUT.items():
        drawn = torch.randn(shape, generator=generator)
        fan = max(1, drawn[0].numel())
        found[name] = 1 + 0.1 * drawn if drawn.ndim == 1 else drawn / fan**0.5
    found["rope.freqs"] *= 100
    return found


def named(path: Path, seed: int = 0) -> str:
    """Writes such weights, and names them as the environment does."""
    save_file(random_weights(seed), path)
    return f"{path}#sha256={sha256(path.read_bytes()).hexdigest()}"
