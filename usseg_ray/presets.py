"""Settings that a data set brings along, below a search space and `--set`."""

from typing import Any

from usseg_ray.data.sources import SYNTHETIC

# Small scenes, a weight-free backbone, and a run that ends within seconds.
EMBEDDED: dict[str, Any] = {
    "backbone.name": "textons",
    "data.train_size": 144,
    "data.eval_size": 144,
    "data.crop_scale": 0.7,
    "train.epochs": 5,
    "train.batch_size": 16,
}

EMBEDDED_METHODS: dict[str, dict[str, Any]] = {
    "acseg": {
        # Textons of one image share an offset (its light), which hides the graph's structure.
        "method.centre": True,
        # Fewer and faster steps than for 384-dimensional tokens: 75 steps in all.
        "method.norm": "pre",
        "method.num_blocks": 3,
        "method.num_heads": 3,
        "method.lr": 1e-2,
        "method.warmup_steps": 10,
    },
}


def data_defaults(method: str, data: str) -> dict[str, Any]:
    """Lists what a data set changes in a method's defaults.

    Args:
        method: Name of the method.
        data: Name of the data set.

    Returns:
        Dotted keys and values; empty for data of the user's own.
    """
    if data != SYNTHETIC:
        return {}
    return EMBEDDED | EMBEDDED_METHODS.get(method, {})
