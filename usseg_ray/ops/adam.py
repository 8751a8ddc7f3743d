"""Adam and AdamW of PyTorch, to the bit, without the compiler that they import.

PyTorch's optimisers import `torch._dynamo` as they are made, to tell it not to compile them.
Nothing is compiled here, and the import takes 1.4 s of CPU and 150 MB in every process that trains.
"""

from inspect import unwrap

import torch
from torch.optim import Optimizer


class _Uncompiled:
    """An optimiser's methods below their decorators, which are the compiler's."""

    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)


class Adam(_Uncompiled, torch.optim.Adam):
    """`torch.optim.Adam`."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class AdamW(_Uncompiled, torch.optim.AdamW):
    """`torch.optim.AdamW`."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
