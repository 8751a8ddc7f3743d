"""Rules that methods state in `Method.calibrated`: settings in relative terms.

A published rate belongs to a published number of steps, a published cosine to one network's tokens.
Here the first becomes a distance, which Adam walks in any number of steps, and the second a share
of pairs.
"""

from usseg_ray.core.calibration import SHARES, Choice, Cosines

HEAD = 2.5
"""Rate times steps of a segmentation head: 5e-4 times 5,000, as STEGO's official code."""

FASTEST = 1e-2
"""Adam's largest rate, however few the steps are."""

_DIGITS = 4
_ODDS = 4
"""How many times more and less likely pairs are at the ends of what a space draws."""


def fixed(
    key: str, value: int | float | str | None, rule: str, ends: tuple[float, float] | None = None
) -> Choice:
    """States a setting that a circumstance decides, and what a space may draw around it."""
    if isinstance(value, float):
        value = _short(value)
    return Choice(key=key, value=value, rule=rule, ends=ends)


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

    A space draws between the cosines of shares whose odds are four times as large and as small.

    Args:
        key: Of the setting.
        cosines: Of the pairs.
        share: How many lie above the threshold.
        kind: Which pairs, in words.
    """
    odds = share / (1 - share)
    more, less = (odds * times / (1 + odds * times) for times in (_ODDS, 1 / _ODDS))
    low, value, high = (_cosine(cosines, each) for each in (more, share, less))
    return Choice(
        key=key,
        value=value,
        rule=f"{100 * share:g} % of {kind} lie above it",
        ends=(low, high) if low < high else None,
    )


def _cosine(cosines: Cosines, share: float) -> float:
    within = min(max(share, SHARES[0]), SHARES[-1])
    return _short(max(-1.0, min(1.0, cosines.above(within))))


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
