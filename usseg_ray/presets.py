"""Settings that a data set or a backbone brings along, below a search space and `--set`."""

from collections.abc import Mapping
from typing import Any

from usseg_ray.backbones import TEXTONS
from usseg_ray.data.sources import SYNTHETIC

# How long a method learns where nothing says otherwise.
SCHEDULES: dict[str, dict[str, Any]] = {
    # 2,500 iterations, whatever the size of the data (Li et al., CVPR 2023).
    "acseg": {"train.epochs": 5, "train.steps_per_epoch": 500},
}

# Small scenes, a weight-free backbone, and a run that ends within seconds.
EMBEDDED: dict[str, Any] = {
    "backbone.name": TEXTONS,
    "data.train_size": 144,
    "data.eval_size": 144,
    "data.crop_scale": 0.7,
    "train.epochs": 5,
    "train.steps_per_epoch": None,
    "train.batch_size": 16,
}

# What methods need on textons, wherever the images come from.
ON_TEXTONS: dict[str, dict[str, Any]] = {
    "acseg": {
        # Textons of one image share an offset (its light), which hides the graph's structure.
        "method.centre": True,
        # Heads that divide 15 dimensions; fewer and faster steps than 384 dimensions take.
        "method.norm": "pre",
        "method.num_blocks": 3,
        "method.num_heads": 3,
        "method.lr": 1e-2,
        "method.warmup_steps": 10,
    },
}


def data_defaults(method: str, data: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Lists what data set and backbone change in a method's defaults.

    Args:
        method: Name of the method.
        data: Name of the data set.
        chosen: Dotted keys that a search space fixes or the user sets; they say which backbone.

    Returns:
        Dotted keys and values, below all of `chosen`.
    """
    found = dict(SCHEDULES.get(method, {}))
    if data == SYNTHETIC:
        found |= EMBEDDED
    if chosen.get("backbone.name", found.get("backbone.name")) == TEXTONS:
        found |= ON_TEXTONS.get(method, {})
    return found
