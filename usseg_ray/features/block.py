"""The transformer block that patch tokens are read of, as a module that a method can train.

Beside `backbones`, whose frozen pass says what goes into it (`types.BlockInput`).
"""

from copy import deepcopy
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from usseg_ray.core.types import BlockInput


class ReadBlock(nn.Module):
    """A copy of one block of a timm transformer, which learns, and of its final norm, which not.

    Untrained it gives the backbone's patch tokens.

    Args:
        model: The transformer: plain as DINO and DINOv2, or rotary as DINOv3.
        layer: Which block, from 0.
    """

    def __init__(self, model: Any, layer: int) -> None:  # noqa: ANN401
        super().__init__()
        self.block: nn.Module = deepcopy(model.blocks[layer]).requires_grad_(True)
        self.norm: nn.Module = deepcopy(model.norm).requires_grad_(False)
        self._prefix: int = model.num_prefix_tokens

    def forward(self, given: BlockInput, height: int, width: int) -> Float[Tensor, "B D h w"]:
        """Computes patch tokens, normed.

        Args:
            given: What the blocks before it made of the images.
            height: Patches from top to bottom.
            width: Patches from left to right.
        """
        options = {} if given.rope is None else {"rope": given.rope}
        tokens: Tensor = self.norm(self.block(given.tokens, **options))
        patches: Tensor = tokens[:, self._prefix :].mT.unflatten(2, (height, width))
        return patches
