"""Settings that a data set, a backbone or a protocol brings along, below what a user chooses.

From below: the settings' own defaults, the method's schedule, what the embedded set and textons
bring (a method's part of all three is `methods.base.Defaults`, in the method's file), the
protocol's, a published preset (`presets.PRESETS`), `fixed` of a search space, what a trial samples,
`--set`.
"""

from collections.abc import Mapping
from typing import Any

from usseg_ray.data.library import SYNTHETIC
from usseg_ray.features.textons import TEXTONS
from usseg_ray.methods.base import Method
from usseg_ray.scoring.protocols import DEFAULT, protocol_settings

# Small scenes, a weight-free backbone, and a run that ends within seconds.
EMBEDDED: Mapping[str, Any] = {
    "backbone.name": TEXTONS,
    "data.train_size": 144,
    "data.eval_size": 144,
    "data.crop_scale": 0.7,
    "train.epochs": 5,
    "train.steps_per_epoch": None,
    "train.batch_size": 16,
}


def data_defaults(method: type[Method], data: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Lists what data set, backbone and protocol change in a method's defaults.

    Args:
        method: The method, which states its own part.
        data: Name of the data set.
        chosen: Dotted keys that a preset, a search space's `fixed` or the user sets; they say
            which backbone and which protocol.

    Returns:
        Dotted keys and values, below all of `chosen`.
    """
    found = dict(method.defaults.schedule)
    if data == SYNTHETIC:
        found |= {**EMBEDDED, **method.defaults.embedded}
    if chosen.get("backbone.name", found.get("backbone.name")) == TEXTONS:
        found |= method.defaults.textons
    return found | protocol_settings(chosen.get("protocol", DEFAULT))
