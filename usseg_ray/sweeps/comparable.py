"""Which settings runs may differ in and still be compared: in one sweep, or with an earlier one.

`planning` checks it before anything starts. What methods do not agree in is theirs to choose; the
protocol and the backbone are not.
"""

from collections.abc import Mapping
from typing import Any

FREE_GROUPS = ("method.", "train.")
FREE_KEYS = (
    "num_clusters",
    "clusters_per_class",
    "data.train_size",
    "data.crop_scale",
    "data.flip",
    "data.crops",
    "data.crop_ratios",
    "data.crop_filter",
    "data.crop_jpeg",
    "data.view_draws",
    "data.shuffle_window",
    "data.keep_mib",
)
"""With `FREE_GROUPS`, what the methods of a sweep may differ in; the rest is the protocol, the
backbone and the machine's shares, without which scores could not stand in one column."""


def is_free(key: str) -> bool:
    """Says whether the methods of a sweep may differ in a dotted key."""
    return key.startswith(FREE_GROUPS) or key in FREE_KEYS


def agreed(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Lists what several methods' flattened settings agree in.

    Keys of `method` are left out where there are several: of another method they mean another
    thing.
    """
    first, *others = settings
    return {
        key: value
        for key, value in first.items()
        if not (others and key.startswith("method."))
        and all(key in other and other[key] == value for other in others)
    }


def differing(settings: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Lists the keys that keep two runs from being compared, whatever their seeds and machines.

    Args:
        settings: Flattened settings of one.
        others: Of the other, whose keys are looked at.
    """
    return [
        key
        for key, value in others.items()
        if not (is_free(key) or key.startswith("resources.") or key == "seed")
        and settings.get(key) != value
    ]
