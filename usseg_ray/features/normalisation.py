"""Tokens as methods see them: as a network gives them, with their mean taken off, or standardised.

What is taken off and divided by is measured once, on training images without labels
(`features.calibration.measure_channels`), and stands in the backbone's settings: whatever reads the
backbone sees the same tokens, in training and in prediction.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.errors import UserError


class TokenNormalisation(nn.Module):
    """Takes a mean token off all tokens, and scales each channel, where a backbone asks for it.

    Args:
        config: Of the backbone; what is not measured yet is left out.
        dim: Channels of a token.

    Raises:
        UserError: What was measured has another number of channels.
    """

    def __init__(self, config: BackboneConfig, dim: int) -> None:
        super().__init__()
        asked = measurements(config)
        self.token_mean = _buffer(asked, "token_mean", dim)
        self.token_std = _buffer(asked, "token_std", dim)

    def forward(self, tokens: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        """Normalises (B, D, h, w) tokens."""
        if self.token_mean is not None:
            tokens = tokens - self.token_mean
        return tokens if self.token_std is None else tokens / self.token_std


def measurements(config: BackboneConfig) -> dict[str, tuple[float, ...] | None]:
    """Names what tokens shall be normalised by, each with its values where they are there."""
    asked = {"token_mean": config.token_mean, "token_std": config.token_std}
    return dict(list(asked.items())[: ("raw", "centred", "standardised").index(config.normalise)])


def check_measured(config: BackboneConfig) -> None:
    """Checks that what tokens shall be normalised by was measured.

    Raises:
        UserError: It was not.
    """
    if None in measurements(config).values():
        raise UserError(
            f"backbone.normalise = {config.normalise} is measured once for all trials, on training "
            "images: give it by --set or in the backbone's file, and to tune, train or fit."
        )


def _buffer(asked: dict[str, tuple[float, ...] | None], name: str, dim: int) -> nn.Buffer | None:
    values = asked.get(name)
    if values is None:
        return None
    if len(values) != dim:
        raise UserError(
            f"backbone.{name} is of {len(values)} channels, and tokens have {dim}: it belongs to "
            "another network or layer. Leave it out, and it is measured."
        )
    return nn.Buffer(torch.tensor(values).view(-1, 1, 1))
