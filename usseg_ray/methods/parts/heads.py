"""The segmentation head of STEGO and its successors, and the moving average that teaches it."""

from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from usseg_ray.ops.unset import unset

HeadActivation = Literal["relu", "silu"]


class HeadMasks(NamedTuple):
    """Dropout of a head's input, see `ops.draws.dropout_mask`; drawn for each branch by itself.

    Attributes:
        linear: Multiplies the linear branch's input, broadcastable to (B, D, h, w).
        nonlinear: Multiplies the other branch's input.
    """

    linear: Float[Tensor, "B D #h #w"]
    nonlinear: Float[Tensor, "B D #h #w"]


class SegmentationHead(nn.Module):
    """A linear and a two-layer projection of every token, added up.

    Args:
        dim: Channels of a token.
        out_dim: Channels of a code.
        activation: Of the two-layer branch.
        generator: Draws the initial weights; equal on all workers.

    Reference:
        STEGO (ICLR 2022), segmentation head; SmooSeg (NeurIPS 2023) uses SiLU; CAUSE-MLP and HP
        use the same form.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        generator: torch.Generator,
        activation: HeadActivation = "relu",
    ) -> None:
        super().__init__()
        with torch.device("meta"):
            self.linear = nn.Conv2d(dim, out_dim, 1)
            self.hidden = nn.Conv2d(dim, dim, 1)
            self.output = nn.Conv2d(dim, out_dim, 1)
        self.activation = nn.ReLU() if activation == "relu" else nn.SiLU()
        initialise_like_torch(unset(self), generator)

    def forward(
        self, tokens: Float[Tensor, "B D h w"], masks: HeadMasks | None = None
    ) -> Float[Tensor, "B C h w"]:
        """Computes codes.

        Args:
            tokens: (B, D, h, w).
            masks: Dropout of the input; none in evaluation.

        Returns:
            (B, C, h, w) codes, not normalised.
        """
        if masks is None:
            plain, curved = self.linear(tokens), self.hidden(tokens)
        else:
            plain = masked_projection(self.linear, tokens, masks.linear)
            curved = masked_projection(self.hidden, tokens, masks.nonlinear)
        codes: Tensor = plain + self.output(self.activation(curved))
        return codes


def masked_projection(
    layer: nn.Conv2d, tokens: Float[Tensor, "B D h w"], mask: Float[Tensor, "B D #h #w"]
) -> Float[Tensor, "B C h w"]:
    """Projects `tokens * mask`, in whichever form writes less.

    A mask of whole channels may as well multiply the weights, an image's own, which are fewer
    numbers than its tokens where an image has more tokens than the layer has outputs.

    Args:
        layer: A convolution of 1x1.
        tokens: (B, D, h, w).
        mask: Broadcastable to the tokens.
    """
    height, width = tokens.shape[2:]
    if mask.shape[2:] != (1, 1) or height * width <= layer.out_channels:
        return cast(Tensor, layer(tokens * mask))
    assert layer.bias is not None
    weights = layer.weight.flatten(1) * mask.flatten(1)[:, None]
    projected = torch.baddbmm(layer.bias[:, None], weights, tokens.flatten(2))
    return cast(Tensor, projected.unflatten(2, (height, width)))


@torch.no_grad()
def initialise_like_torch(module: nn.Module, generator: torch.Generator) -> None:
    """Draws linear and convolution weights as torch does by default, from a given generator.

    Args:
        module: Its `nn.Linear` and `nn.Conv2d` parts are drawn anew, in the order of declaration.
        generator: Source of the draws.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            bound = (part.weight[0].numel()) ** -0.5
            part.weight.uniform_(-bound, bound, generator=generator)
            if part.bias is not None:
                part.bias.uniform_(-bound, bound, generator=generator)


def make_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Makes a linear layer as torch does by default, from a given generator.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        generator: Draws weights and biases; the global one is left alone.
    """
    layer = unset(nn.Linear(inputs, outputs, device="meta"))
    initialise_like_torch(layer, generator)
    return layer


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Moves a teacher towards its student: `teacher = decay * teacher + (1 - decay) * student`.

    Args:
        teacher: Same architecture as the student; changed in place.
        student: Left as it is.
        decay: In [0, 1]; 0 copies the student.
    """
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.mul_(decay).add_(fast, alpha=1 - decay)
