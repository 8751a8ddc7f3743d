"""Textons: a fixed filter bank with a patch size, a backbone with nothing to fetch or to learn.

It stands where a pretrained network stands on an image's path (`backbones` hands it out under the
name `textons`): images in, a map of patch tokens out. It is classical texture analysis: a floor
that deep features must beat, and what lets the default sweep run without a network connection.

Each scale of an octave pyramid is filtered with oriented quadrature pairs (Gabor filters). Their
squared length, the local energy, is averaged over a patch and its neighbours, and read as

- contrast: the energy over all orientations and scales, and its slope from scale to scale;
- anisotropy: the second and fourth angular harmonic of energy. A single direction fills both, a
  weave of two directions only the fourth, and neither changes when the texture is turned;
- evenness: mean amplitude over root mean square amplitude, low where edges are few and strong;

beside colour (two log-opponent axes and log luminance) and, on demand, position. All of it works
on log luminance, where light adds a constant that a filter of zero mean does not see.

Tokens are compared by cosine, and the cosines of raw energies, all positive, are all near one. So
each channel is mapped from the range that it can take to about [-1, 1] by fixed constants: they
follow from the filters and from the limits of 8-bit images. Slope and chroma have no such limit;
theirs, like the number of scales, are round numbers chosen on seeds 0 to 2 of `synthetic`. Nothing
is fitted to the data at hand. Groups of channels that repeat per scale are divided by the square
root of the number of scales, so that groups have about equal votes.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from usseg_ray.core.errors import UserError

TEXTONS = "textons"
"""The filter bank among the names of backbones."""

_FREQUENCY = 0.25
"""Cycles a pixel that a pair is tuned to, at its own scale; an octave below what pixels carry."""
_ENVELOPE = 1.4
"""Deviation of the Gabor envelope, pixels; a bandwidth of one octave, the distance of scales."""
_RADIUS = 4
"""Half width of a filter, pixels; where its envelope has fallen to 2 percent."""
_NEIGHBOURHOOD = 1.0
"""Deviation of the Gaussian that averages over neighbouring patches, patches."""
_DARK = 0.03
"""Added before a logarithm; below it, 8-bit and JPEG steps would pass for contrast."""
_NOISE, _BOLD = 0.01, 0.3
"""Amplitudes of log luminance that map to -1 and 1: sensor noise and a bold pattern."""
_SLOPE = math.log(2)
"""Rise of log amplitude from one scale to the next, coarser one that maps to 1."""
_BURSTS, _GRATING = math.pi / 4, 1.0
"""Evenness that maps to -1 and 1; Gaussian texture, sqrt(pi) / 2, lies in the middle."""
_CHROMA = 1.0
"""Log ratio of colour channels that maps to 1."""
_SHADE, _WHITE = 0.1, 1.0
"""Luminances that map to -1 and 1."""


class Textons(nn.Module):
    """Patch tokens from fixed filters: contrast, anisotropy, evenness and colour.

    Args:
        patch_size: Pixels per token side; a multiple of 2**(num_scales - 1).
        num_orientations: Directions of the filters; at least 5, or the fourth angular harmonic
            would change when a texture is turned.
        num_scales: Octaves, from a period of 4 pixels upwards.
        colour_weight: Weight of colour against texture; 0 leaves it out.
        position_weight: Weight of the position, in [-1, 1] on both axes; 0 leaves it out.

    Attributes:
        patch_size: Pixels per token side.
        dim: Channels of a token, D.

    Raises:
        UserError: A value is out of bounds.
    """

    kernels: Tensor
    harmonics: Tensor
    grating: Tensor

    def __init__(
        self,
        patch_size: int = 8,
        num_orientations: int = 6,
        num_scales: int = 3,
        colour_weight: float = 1.0,
        position_weight: float = 0.0,
    ) -> None:
        super().__init__()
        _check(patch_size, num_orientations, num_scales, colour_weight, position_weight)
        self.patch_size = patch_size
        self.num_scales = num_scales
        self.colour_weight = colour_weight
        self.position_weight = position_weight
        self.dim = 4 * num_scales + 3 * (colour_weight > 0) + 2 * (position_weight > 0)
        angles = torch.arange(num_orientations) * (math.pi / num_orientations)
        orders = torch.tensor([2.0, 4.0])[:, None] * angles
        # Not persistent: they follow from the arguments, so a checkpoint has nothing to keep.
        self.register_buffer("kernels", _gabor_pairs(angles), persistent=False)
        self.register_buffer(
            "harmonics", torch.stack([orders.cos(), orders.sin()], 1), persistent=False
        )
        self.register_buffer(
            "grating",
            _harmonic_share(_grating_energy(self.kernels), self.harmonics),
            persistent=False,
        )

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """Computes patch tokens.

        Args:
            images: (B, 3, H, W) float32 RGB in [0, 1]; H and W are multiples of `patch_size`.

        Returns:
            (B, D, h, w) float32 with h = H / `patch_size`; channels mostly within [-1, 1].
        """
        luminance = torch.log(images.mean(1, keepdim=True) + _DARK)
        groups = self._texture(luminance)
        if self.colour_weight > 0:
            groups.append(self.colour_weight * self._colour(images, luminance))
        if self.position_weight > 0:
            groups.append(self.position_weight * _positions(groups[0]))
        return torch.cat(groups, 1)

    def _texture(self, luminance: Tensor) -> list[Tensor]:
        contrast, anisotropy, evenness = [], [], []
        for scale in range(self.num_scales):
            patch = self.patch_size >> scale
            energy = self._energy(luminance)
            pooled = _pool(energy, patch)
            rms = (pooled.mean(1, keepdim=True) + _NOISE**2).sqrt()
            amplitude = (energy.mean(1, keepdim=True) + _NOISE**2).sqrt()
            contrast.append(rms.log())
            evenness.append(_to_unit(_pool(amplitude, patch) / rms, _BURSTS, _GRATING))
            # The square root spreads shares, which crowd near zero, over their range.
            share = _harmonic_share(pooled, self.harmonics) / self.grating
            anisotropy.append(2 * share.sqrt() - 1)
            luminance = _halve(luminance)
        level = torch.cat(contrast, 1)
        mean = _to_unit(level.mean(1, keepdim=True), math.log(_NOISE), math.log(_BOLD))
        slopes = level.diff(dim=1) / (_SLOPE * math.sqrt(max(1, self.num_scales - 1)))
        per_scale = torch.cat(anisotropy + evenness, 1) / math.sqrt(self.num_scales)
        return [mean, slopes, per_scale]

    def _energy(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, 4 * [_RADIUS], mode="replicate")
        power = functional.conv2d(padded, self.kernels).square()
        return power[:, 0::2] + power[:, 1::2]

    def _colour(self, images: Tensor, luminance: Tensor) -> Tensor:
        logs = torch.log(images + _DARK)
        red, green, blue = logs[:, 0:1], logs[:, 1:2], logs[:, 2:3]
        chroma = torch.cat([red - green, (red + green) / 2 - blue], 1) / _CHROMA
        light = _to_unit(luminance, math.log(_SHADE), math.log(_WHITE))
        return _pool(torch.cat([chroma, light], 1), self.patch_size)


def _check(
    patch_size: int,
    num_orientations: int,
    num_scales: int,
    colour_weight: float,
    position_weight: float,
) -> None:
    if num_scales < 1 or patch_size < 1 or patch_size % (1 << (num_scales - 1)):
        raise UserError(
            f"textons: patch_size = {patch_size} must be a multiple of 2**(num_scales - 1) with "
            f"num_scales = {num_scales} >= 1; 8 and 3 are the defaults."
        )
    if num_orientations < 5:
        raise UserError(f"textons: num_orientations = {num_orientations} must be at least 5.")
    if colour_weight < 0 or position_weight < 0:
        raise UserError(
            f"textons: colour_weight = {colour_weight} and position_weight = {position_weight} "
            "must not be negative."
        )


def _to_unit(x: Tensor, low: float, high: float) -> Tensor:
    return (2 * x - (low + high)) / (high - low)


def _gabor_pairs(angles: Float[Tensor, " O"]) -> Float[Tensor, "F 1 k k"]:
    """Builds an even and an odd kernel per angle; a grating of amplitude a has energy a**2."""
    span = torch.arange(-_RADIUS, _RADIUS + 1.0)
    y, x = torch.meshgrid(span, span, indexing="ij")
    envelope = torch.exp(-(x.square() + y.square()) / (2 * _ENVELOPE**2))
    along = x * angles.cos()[:, None, None] + y * angles.sin()[:, None, None]
    phase = 2 * math.pi * _FREQUENCY * along
    waves = torch.stack([phase.cos(), phase.sin()], 1)
    kernels = envelope * waves
    # Without this the even kernel would answer to brightness.
    mean = kernels.sum((2, 3), keepdim=True) / envelope.sum()
    kernels = kernels - envelope * mean
    gain = (kernels * waves).sum((2, 3), keepdim=True)
    return (kernels / gain).flatten(0, 1)[:, None]


def _grating_energy(kernels: Float[Tensor, "F 1 k k"]) -> Float[Tensor, "1 O 1 1"]:
    """Measures the energies that a grating across the first angle leaves, mean over its phase."""
    wave = 2 * math.pi * _FREQUENCY * torch.arange(-_RADIUS, _RADIUS + 1.0)
    profile = kernels[:, 0].sum(1)
    power = (profile @ wave.cos()).square() + (profile @ wave.sin()).square()
    return (power[0::2] + power[1::2])[None, :, None, None] / 2


def _harmonic_share(
    energy: Float[Tensor, "B O h w"], harmonics: Float[Tensor, "2 2 O"]
) -> Float[Tensor, "B 2 h w"]:
    """Divides the magnitudes of the second and fourth angular harmonic by the whole energy."""
    parts = torch.einsum("hpo,boyx->bhpyx", harmonics, energy)
    return parts.square().sum(2).sqrt() / (energy.sum(1, keepdim=True) + _NOISE**2)


def _halve(x: Tensor) -> Tensor:
    """Smooths with the binomial (1, 3, 3, 1), whose even length keeps patches aligned, by 2."""
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, taps.outer(taps)[None, None], stride=2)


def _pool(x: Tensor, patch: int) -> Tensor:
    """Averages over patches, then over neighbouring patches with a Gaussian."""
    radius = math.ceil(2.5 * _NEIGHBOURHOOD)
    span = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    taps = torch.exp(-span.square() / (2 * _NEIGHBOURHOOD**2))
    kernel = (taps.outer(taps) / taps.sum().square()).expand(x.shape[1], 1, -1, -1)
    padded = functional.pad(functional.avg_pool2d(x, patch), 4 * [radius], mode="replicate")
    return functional.conv2d(padded, kernel, groups=x.shape[1])


def _positions(like: Tensor) -> Tensor:
    """Returns (B, 2, h, w) coordinates of patch centres, x and y, in [-1, 1] over the image."""
    batch, _, height, width = like.shape
    x = (2 * torch.arange(width, device=like.device) + 1) / width - 1
    y = (2 * torch.arange(height, device=like.device) + 1) / height - 1
    grid = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)])
    return grid.expand(batch, -1, -1, -1)
