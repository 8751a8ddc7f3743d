"""Layers whose weights nobody has drawn yet, so that the global generator is left alone."""

from typing import TypeVar

import torch
from torch import nn

Part = TypeVar("Part", bound=nn.Module)


def unset(module: Part) -> Part:
    """Gives a module's parameters memory on the CPU in place of the meta device.

    As `Module.to_empty`, which imports a library for symbolic sizes on its way: 0.5 s of CPU and
    36 MB in every process that builds a head.

    Args:
        module: Built on the meta device; without buffers.

    Returns:
        The module, its parameters new ones with any values.
    """
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(part, name, nn.Parameter(empty, parameter.requires_grad))
    return module
