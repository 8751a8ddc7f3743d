"""Photometric views: the same crop in other colours, so that its patch grid stays aligned.

HP's consistency loss looks at two of them. They are made between the normalisation of pixels and
the backbone, on normalised values, because the official code does so: every change of brightness,
contrast or saturation cuts its result to [0, 1], which is far from the range that a network is
used to. Draws are keyed by image, and images with the same next change are computed together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import conv2d, pad

from usseg_ray.core.config import JitterConfig
from usseg_ray.ops.draws import uniforms

_GREY = (0.2989, 0.587, 0.114)
_BLUR_REACH = 2
_SIGMA_RANGE = (0.1, 2.0)
# Of the values (highest, falling, lowest, rising), which are red, green and blue in each sixth of
# the colour circle.
_SECTORS = ((0, 3, 2), (1, 0, 2), (2, 0, 3), (2, 1, 0), (3, 2, 0), (0, 2, 1))


@dataclass(frozen=True)
class PhotometricDraws:
    """Everything random about the views of a batch.

    Attributes:
        strength: (B, 4) factors of brightness, contrast and saturation, and shift of hue in turns.
        applied: (B, 4) whether each of these changes is made.
        order: (B, 4) the changes, as columns of `strength`, in the order in which they are made.
        grey: (B,) whether the view is then made grey.
        sigma: (B,) standard deviation of a last 5x5 Gaussian blur, pixels; 0 for none.
    """

    strength: Float[Tensor, "B 4"]
    applied: Bool[Tensor, "B 4"]
    order: Int64[Tensor, "B 4"]
    grey: Bool[Tensor, "B"]
    sigma: Float[Tensor, "B"]


def draw_photometric(
    ids: Sequence[str],
    jitter: JitterConfig,
    *key: int | str,
    device: torch.device | None = None,
) -> PhotometricDraws:
    """Draws how each image's view differs from the image.

    Args:
        ids: One name per image.
        jitter: How strongly.
        key: What the views are for, for example `(seed, "photometric", stage, step)`.
        device: Where the draws lie.

    Returns:
        The draws; those of an image depend on key and id alone.
    """
    draws = uniforms(ids, (15,), *key, device=device)
    spread = draws.new_tensor(
        [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue],
    )
    low, high = _SIGMA_RANGE
    sigma = low + (high - low) * draws[:, 14]
    return PhotometricDraws(
        strength=draws.new_tensor([1.0, 1.0, 1.0, 0.0]) + spread * (2 * draws[:, :4] - 1),
        applied=draws[:, 4:8] < jitter.probability,
        order=draws[:, 8:12].argsort(1),
        grey=draws[:, 12] < jitter.grey,
        sigma=sigma.where(draws[:, 13] < jitter.blur, 0),
    )


DRAWN = "stored"
"""Keys views that are drawn once and for all, together with image, crop and number."""


def photometric_views(
    images: Float[Tensor, "B 3 H W"],
    ids: Sequence[str],
    jitter: JitterConfig,
    *key: int | str,
) -> Float[Tensor, "B 3 H W"]:
    """Draws and makes a photometric view of each image.

    Args:
        images: (B, 3, H, W) float, normalised for the backbone; both sides above 2.
        ids: One name per image.
        jitter: How strongly.
        key: What the views are for, for example `(seed, "photometric", stage, step)`.

    Returns:
        (B, 3, H, W), to be shown to the backbone as they are.

    Reference:
        HP (CVPR 2023), official code: colour jitter in random order, grey with probability 0.2,
        5x5 blur of sigma 0.1 to 2 with probability 0.5, on normalised tensors.
    """
    return apply_photometric(images, draw_photometric(ids, jitter, *key, device=images.device))


def apply_photometric(
    images: Float[Tensor, "B 3 H W"], draws: PhotometricDraws
) -> Float[Tensor, "B 3 H W"]:
    """Makes views from given draws.

    Args:
        images: (B, 3, H, W) float; both sides above 2.
        draws: What to do to each.

    Returns:
        (B, 3, H, W), new.
    """
    views = images.clone()
    for turn in range(4):
        for change, make in enumerate((_brighten, _contrast, _saturate, _turn_hue)):
            chosen = (draws.order[:, turn] == change) & draws.applied[:, change]
            strength = draws.strength[chosen, change, None, None, None]
            views[chosen] = make(views[chosen], strength)
    views[draws.grey] = _grey(views[draws.grey]).expand(-1, 3, -1, -1)
    blurred = draws.sigma > 0
    if blurred.any():
        views[blurred] = _blur(views[blurred], draws.sigma[blurred])
    return views


def _blend(
    images: Float[Tensor, "n 3 H W"],
    other: Float[Tensor, "n ..."] | float,
    strength: Float[Tensor, "n 1 1 1"],
) -> Float[Tensor, "n 3 H W"]:
    return (strength * images + (1 - strength) * other).clamp(0, 1)


def _brighten(
    images: Float[Tensor, "n 3 H W"], strength: Float[Tensor, "n 1 1 1"]
) -> Float[Tensor, "n 3 H W"]:
    return _blend(images, 0.0, strength)


def _contrast(
    images: Float[Tensor, "n 3 H W"], strength: Float[Tensor, "n 1 1 1"]
) -> Float[Tensor, "n 3 H W"]:
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), strength)


def _saturate(
    images: Float[Tensor, "n 3 H W"], strength: Float[Tensor, "n 1 1 1"]
) -> Float[Tensor, "n 3 H W"]:
    return _blend(images, _grey(images), strength)


def _grey(images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 1 H W"]:
    weights = images.new_tensor(_GREY).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _turn_hue(
    images: Float[Tensor, "n 3 H W"], strength: Float[Tensor, "n 1 1 1"]
) -> Float[Tensor, "n 3 H W"]:
    """Turns colours around the circle; only the three values that may change are cut to [0, 1]."""
    hue, saturation, value = _to_hsv(images)
    sixths = (hue + strength[:, 0]).remainder(1) * 6
    sector = sixths.floor()
    rest = sixths - sector
    others = torch.stack([saturation * rest, saturation, saturation * (1 - rest)], dim=1)
    others = (value[:, None] * (1 - others)).clamp(0, 1)
    sources = torch.cat([value[:, None], others], dim=1)
    # A hue just below a full turn may round up to it.
    table = torch.tensor(_SECTORS, device=images.device)[sector.long() % 6]
    return sources.gather(1, table.permute(0, 3, 1, 2))


def _to_hsv(
    images: Float[Tensor, "n 3 H W"],
) -> tuple[Float[Tensor, "n H W"], Float[Tensor, "n H W"], Float[Tensor, "n H W"]]:
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    spread = value - images.amin(1)
    # Grey pixels have no hue, and pixels of value 0 no saturation.
    saturation = spread / value.where((spread > 0) & (value != 0), 1)
    divisor = spread.where(spread > 0, 1)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    return (hue / 6 + 1).fmod(1), saturation, value


def _blur(images: Float[Tensor, "n 3 H W"], sigma: Float[Tensor, "n"]) -> Float[Tensor, "n 3 H W"]:
    steps = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1, device=images.device)
    profile = torch.exp(-0.5 * (steps / sigma[:, None]).square()).to(images.dtype)
    profile = (profile / profile.sum(1, keepdim=True)).repeat_interleave(3, 0)
    kernels = (profile[:, :, None] * profile[:, None, :])[:, None]
    # One group per image and channel, so that every image has a kernel of its own.
    stacked = pad(images, (_BLUR_REACH,) * 4, mode="reflect").flatten(0, 1)[None]
    return conv2d(stacked, kernels, groups=len(kernels)).view_as(images)
