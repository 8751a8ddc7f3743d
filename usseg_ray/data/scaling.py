"""How the numbers of files become the bytes that models see: which bands, and what is 0 and 255.

It is decided once, when a set is prepared, and goes with the set and with every model that learnt
from it, so that a scene that comes later is shown as the training images were.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from jaxtyping import Num, UInt8
from pydantic import Field, model_validator

from usseg_ray.core.config import Settings
from usseg_ray.core.errors import UserError

PERCENTILES = (2, 98)
"""Of a band's numbers: black and white."""

_BLOCK = 2**20
"""Pixels that are scaled at a time, as float64."""

_LEAST_SPAN = 1e-6

_ALL_16_BITS = np.broadcast_to(np.arange(2**16)[:, None], (2**16, 3))
"""Where there are more pixels than these, each number is scaled once."""

Ends = tuple[float, float, float]


class Scaling(Settings):
    """What becomes 0 and what 255 in each of three bands; numbers outside become the nearer.

    Attributes:
        low: What becomes 0.
        high: What becomes 255.
        words: The same for people.
    """

    low: Ends
    high: Ends
    words: str = ""

    @model_validator(mode="after")
    def _upwards(self) -> Self:
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self

    @classmethod
    def of(cls, bands: Sequence[Num[np.ndarray, "n"]], what: str = "", whose: str = "") -> Self:
        """Takes two percentiles of each band.

        Args:
            bands: Numbers of red, green and blue; what is not finite does not count.
            what: What they are, such as `16-bit`.
            whose: Whose they are, such as `the training images' values`.
        """
        finite = [band[np.isfinite(band)] for band in bands]
        ends = [
            np.percentile(band, PERCENTILES) if band.size else np.array([0, 1]) for band in finite
        ]
        low = [float(end[0]) for end in ends]
        high = [max(float(end[1]), float(end[0]) + _span(end)) for end in ends]
        shares = " and ".join(f"{share} %" for share in PERCENTILES)
        words = f"{what}: {shares} of {whose}, {_ranges(low, high)}, become 0 to 255"
        return cls(low=tuple(low), high=tuple(high), words=words if what else "")

    def apply(self, numbers: Num[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """Scales numbers to bytes; what is no number becomes 0."""
        scaled = np.empty(numbers.shape, np.uint8)
        if numbers.dtype == np.uint16 and numbers.size > _ALL_16_BITS.size:
            table = self._scaled(_ALL_16_BITS)
            for band in range(3):
                scaled[..., band] = table[:, band][numbers[..., band]]
            return scaled
        rows = max(1, _BLOCK // numbers.shape[1])
        for top in range(0, len(numbers), rows):
            scaled[top : top + rows] = self._scaled(numbers[top : top + rows])
        return scaled

    def _scaled(self, numbers: Num[np.ndarray, "*N 3"]) -> UInt8[np.ndarray, "*N 3"]:
        low, span = np.array(self.low), np.array(self.high) - np.array(self.low)
        with np.errstate(invalid="ignore"):
            part = (numbers - low) * (255 / span)
        return np.nan_to_num(part).clip(0, 255).round().astype(np.uint8)


class Sight(Settings):
    """How the files of a set are seen, and so those that its models are shown.

    Attributes:
        bands: Which bands are red, green and blue, or the one that is grey: numbers from 1, or
            names; a file's own colours if empty.
        scaling: Of numbers of more than 8 bits; `None` where training images have none.
    """

    bands: tuple[str, ...] = Field((), max_length=3)
    scaling: Scaling | None = None

    @property
    def lines(self) -> list[str]:
        """Says it, a line each; nothing of files that are seen as they are."""
        bands = [f"Bands {', '.join(self.bands)} are what is seen."] if self.bands else []
        return [*bands, *([f"{self.scaling.words}."] if self.scaling else [])]


AS_THEY_ARE = Sight()


def parse_bands(text: str | None) -> tuple[str, ...]:
    """Reads `--bands`: one or three numbers from 1 or names, with commas between them.

    Raises:
        UserError: It is something else.
    """
    if text is None:
        return ()
    bands = tuple(part.strip() for part in text.split(","))
    if len(bands) not in (1, 3) or not all(bands) or "0" in bands:
        raise UserError(
            f"--bands {text}: name red, green and blue, or the one that is grey, by numbers from 1 "
            "or by the file's names for them: --bands 4,3,2."
        )
    return bands


def _span(end: np.ndarray) -> float:
    """Makes a range of one number as narrow as float64 can hold beside it."""
    return max(_LEAST_SPAN, 1e-9 * float(np.abs(end).max()))


def _ranges(low: Sequence[float], high: Sequence[float]) -> str:
    parts = [f"{least:.6g} to {most:.6g}" for least, most in zip(low, high, strict=True)]
    if len(set(parts)) == 1:
        return parts[0]
    return f"{parts[0]} in red, {parts[1]} in green and {parts[2]} in blue"
