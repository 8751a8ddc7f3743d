"""Colour changes of a view: brightness, contrast, saturation, hue, grey and blur, by Pillow.

On the path between a decoded, framed image and its views; the geometry of a view is elsewhere
(`transforms`, `methods.parts.geometry`). The parameters of a view are drawn first and kept apart
from their use, so that a view can be repeated. No torch here, see `transforms`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageEnhance, ImageFilter

from usseg_ray.core.config import JitterConfig

NUM_DRAWS = 10


@dataclass(frozen=True)
class Photometric:
    """What happens to a view's colours, in this order; `None` leaves them.

    Attributes:
        brightness: Factor.
        contrast: Factor.
        saturation: Factor.
        hue: Shift, turns.
        grey: Whether colour is dropped.
        blur: Deviation of a Gaussian, pixels.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    grey: bool = False
    blur: float | None = None


def draw_recolouring(random: np.random.Generator, jitter: JitterConfig) -> Photometric:
    """Draws the parameters of a view.

    Args:
        random: Source of the draws, keyed by image, epoch and view; ten numbers are taken.
        jitter: How strong the changes are and how often they happen.

    Returns:
        The parameters, see `photometric_from`.
    """
    return photometric_from(random.random(NUM_DRAWS), jitter)


def photometric_from(draws: Float64[np.ndarray, "10"], jitter: JitterConfig) -> Photometric:
    """Turns uniform draws into the parameters of a view.

    Args:
        draws: (10,) in [0, 1): coins of brightness, contrast, saturation, hue, grey and blur, then
            the values of the first four.
        jitter: How strong the changes are and how often they happen.

    Returns:
        The parameters; each change has a coin of its own.

    Reference:
        PiCIE (CVPR 2021), official code. Its blur radius runs from -1.8 to 0.1 and Pillow squares
        it: its size is what counts.
    """
    coins, values = draws[:6].tolist(), draws[6:].tolist()

    def changed(index: int, centre: float, reach: float) -> float | None:
        applied = coins[index] < jitter.probability
        return centre + reach * (2 * values[index] - 1) if applied else None

    return Photometric(
        brightness=changed(0, 1.0, jitter.brightness),
        contrast=changed(1, 1.0, jitter.contrast),
        saturation=changed(2, 1.0, jitter.saturation),
        hue=changed(3, 0.0, jitter.hue),
        grey=coins[4] < jitter.grey,
        blur=abs(1.9 * coins[5] / jitter.blur - 1.8) if coins[5] < jitter.blur else None,
    )


def adjust(image: UInt8[np.ndarray, "H W 3"], view: Photometric) -> UInt8[np.ndarray, "H W 3"]:
    """Changes an image's colours.

    Args:
        image: (H, W, 3) uint8, RGB.
        view: What to change.

    Returns:
        (H, W, 3) uint8.
    """
    picture = Image.fromarray(image)
    enhancers = (
        (ImageEnhance.Brightness, view.brightness),
        (ImageEnhance.Contrast, view.contrast),
        (ImageEnhance.Color, view.saturation),
    )
    for enhancer, factor in enhancers:
        if factor is not None:
            picture = enhancer(picture).enhance(factor)
    if view.hue is not None:
        picture = _turn_hue(picture, view.hue)
    if view.grey:
        picture = picture.convert("L").convert("RGB")
    if view.blur is not None:
        picture = picture.filter(ImageFilter.GaussianBlur(view.blur))
    return np.asarray(picture)


def _turn_hue(picture: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    # Pillow's hue is a byte that wraps around; the shift is truncated as torchvision does.
    shifted = (np.asarray(hue).astype(np.int16) + int(255 * turns)) % 256
    bands = (Image.fromarray(shifted.astype(np.uint8)), saturation, value)
    return Image.merge("HSV", bands).convert("RGB")
