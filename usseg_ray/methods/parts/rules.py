"""Rules that methods state in `Method.calibrated`: settings in relative terms.

A published rate belongs to a published number of steps, a published cosine to one network's tokens.
Here the first becomes a distance, which Adam walks in any number of steps, and the second a share
of pairs.
"""

from usseg_ray.core.calibration import Choice, Cosines

HEAD = 2.5
"""Rate times steps of a segmentation head: 5e-4 times 5,000, as STEGO's official code."""

FASTEST = 1e-2
"""Adam's largest rate, however few the steps are."""

_DIGITS = 4


def fixed(key: str, value: int | float | str, rule: str) -> Choice:
    """States a setting that a circumstance decides."""
    return Choice(key=key, value=value, rule=rule)


def rate(key: str, steps: int, distance: float = HEAD) -> Choice:
    """Chooses Adam's rate: so far in all, however many steps a run has.

    Args:
        key: Of the setting.
        steps: Steps of this run.
        distance: Rate times steps.
    """
    value = min(FASTEST, distance / steps)
    rule = f"times {steps} steps {distance:g}, and at most {FASTEST:g}"
    return Choice(key=key, value=_short(value), rule=rule)


def threshold(key: str, cosines: Cosines, share: float, kind: str) -> Choice:
    """Turns a share of pairs into the cosine that they lie above.

    Args:
        key: Of the setting.
        cosines: Of the pairs.
        share: How many lie above the threshold.
        kind: Which pairs, in words.
    """
    value = max(-1.0, min(1.0, cosines.above(share)))
    return Choice(key=key, value=_short(value), rule=f"{100 * share:g} % of {kind} lie above it")


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
