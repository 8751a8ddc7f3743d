"""What a calibration found: facts about features, and the settings that follow from them.

Plain values without torch: they are kept in a run's request, and read again when it is resumed.
`features.calibration` measures the facts, each method's file states the rules.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pydantic import Field, JsonValue

from usseg_ray.core.config import Settings

Effort = Literal["quick", "normal", "full"]

SHARES = (0.0001, 0.001, 0.01, 0.05, *(tenth / 10 for tenth in range(1, 10)), 0.95, 0.99)
"""Shares of pairs, of which `Cosines` keeps the cosine that they lie above."""

FEWEST_IMAGES = 48
"""Below so many training images nothing is said about pairs of them."""


class Cosines(Settings):
    """How alike the tokens of some kind of pairs are.

    Attributes:
        levels: For each of `SHARES` the cosine that so many of the pairs lie above; falling.
    """

    levels: tuple[float, ...] = Field(min_length=len(SHARES), max_length=len(SHARES))

    def above(self, share: float) -> float:
        """Returns the cosine that a share of the pairs lies above, interpolated.

        Args:
            share: Between the first and the last of `SHARES`.
        """
        steps = pairwise(zip(SHARES, self.levels, strict=True))
        for (low, upper), (high, lower) in steps:
            if low <= share <= high:
                return upper + (lower - upper) * (share - low) / (high - low)
        raise ValueError(f"share {share} is not within {SHARES[0]} and {SHARES[-1]}")


class Statistics(Settings):
    """Facts about the frozen features of a data set's training images, found without labels.

    Attributes:
        images: Images that were looked at.
        within: Pairs of tokens of one image, as a correspondence loss sees them: centred, see
            `features.calibration.measure_tokens`.
        similar: The same of an image and the one that is most like it.
        random: The same of two images that have nothing to do with each other.
        effective_rank: Of all tokens: exp of the entropy of the shares of variance.
        position_share: Part of the tokens' variance that their place in the image explains.
    """

    images: int = Field(ge=2)
    within: Cosines
    similar: Cosines
    random: Cosines
    effective_rank: float
    position_share: float


class Choice(Settings):
    """A setting that was calibrated.

    Attributes:
        key: Dotted key of a run's config.
        value: What was chosen.
        paper: What the setting would be without.
        rule: Why, in a few words.
        ends: Between which values a shipped search space draws it, in place of the published
            ones; a space that has no such ends leaves it as it is.
    """

    key: str
    value: JsonValue
    paper: JsonValue = None
    rule: str
    ends: tuple[float, float] | None = None

    @property
    def is_change(self) -> bool:
        """Whether the setting would be another without; a rule may come to what was there."""
        return self.value != self.paper


class Calibration(Settings):
    """What was calibrated before a run's first trial.

    Attributes:
        data: Digest of the training images that it holds for.
        effort: How long methods learn.
        statistics: What was measured; nothing where thresholds are the published ones.
        note: Why nothing was measured, if so.
        choices: Method -> its settings.
        tokens: What the backbone's tokens are normalised by, for all methods.
    """

    data: str
    effort: Effort = "normal"
    statistics: Statistics | None = None
    note: str = ""
    choices: dict[str, tuple[Choice, ...]] = Field(default_factory=dict)
    tokens: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a method's rules may look at.

    Attributes:
        images: Of the training split.
        steps: Optimiser steps of its main stage.
        batch_size: Images of a step.
        grid: Tokens along a side of a training crop.
        statistics: Of the features; nothing where they are not known.
        has_attention: Whether the backbone has attention to give.
    """

    images: int
    steps: int
    batch_size: int
    grid: int
    statistics: Statistics | None
    has_attention: bool
