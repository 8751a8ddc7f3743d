"""Settings that a data set, a backbone or a publication brings along, below what a user chooses.

From below: a method's defaults, what holds for every run of it (`SCHEDULES`), the data set's
(`EMBEDDED`), the backbone's (`ON_TEXTONS`), the protocol's, a published preset
(`presets.PRESETS`), `fixed` of a search space, what a trial samples, `--set`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from usseg_ray.data.library import SYNTHETIC
from usseg_ray.features.backbones import TEXTONS
from usseg_ray.scoring.protocols import DEFAULT, protocol_settings

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Layer:
    """Settings that some circumstance brings along.

    Attributes:
        shared: Dotted keys and values for every method.
        own: Method -> its own, above the shared ones.
    """

    shared: Values = field(default_factory=dict)
    own: Mapping[str, Values] = field(default_factory=dict)

    def of(self, method: str) -> dict[str, Any]:
        """Lists what the circumstance brings for a method."""
        return {**self.shared, **self.own.get(method, {})}


# How long a method learns, and in what portions, where nothing says otherwise: as its official
# settings for COCO-Stuff; a pass over five crops of each image counts as five epochs.
SCHEDULES = Layer(
    own={
        "picie": {"train.epochs": 10, "train.batch_size": 128, "data.crop_scale": 0.25},
        "stego": {"train.epochs": 10, "train.steps_per_epoch": 500, "train.batch_size": 16},
        "hp": {"train.epochs": 15, "train.batch_size": 64},
        "cause": {"train.epochs": 10, "train.batch_size": 16},
        "acseg": {"train.epochs": 5, "train.steps_per_epoch": 500},
        "smooseg": {"train.epochs": 6, "train.steps_per_epoch": 500, "train.batch_size": 32},
    }
)

# Small scenes, a weight-free backbone, and a run that ends within seconds.
EMBEDDED = Layer(
    shared={
        "backbone.name": TEXTONS,
        "data.train_size": 144,
        "data.eval_size": 144,
        "data.crop_scale": 0.7,
        "train.epochs": 5,
        "train.steps_per_epoch": None,
        "train.batch_size": 16,
    },
    own={
        # From scratch, on images of half the size: a network of its own is what costs time.
        "picie": {
            "method.network.pretrained": False,
            "method.lr": 1e-3,
            "method.cluster_batch": 32,
            "data.train_size": 96,
            "train.epochs": 3,
        },
        "stego": {"train.epochs": 20, "train.eval_every": 5},
        "hp": {"train.epochs": 4, "train.batch_size": 8},
        "acseg": {"train.epochs": 2},
        "smooseg": {"train.epochs": 20, "train.eval_every": 5},
    },
)

# What methods need on textons, wherever the images come from: tokens of 15 dimensions, whose
# cosines are all high, and far fewer steps than the published schedules take.
ON_TEXTONS = Layer(
    own={
        "stego": {
            "method.dim": 32,
            "method.shift_intra": 0.45,
            "method.shift_inter": 0.45,
            "method.shift_negative": 0.6,
            "method.lr": 1e-2,
        },
        "hp": {
            # Textons have no attention.
            "method.affinity": "cosine",
            "method.dim": 32,
            "method.dropout": 0.0,
            "method.consistency_weight": 0.0,
            "method.pool_size": 240,
            "method.renewal_steps": 10,
            "method.ramp_start": 10,
            "method.lr": 1e-2,
            "method.projection_lr": 1e-2,
        },
        "cause": {
            "method.window": 3,
            "method.num_codes": 256,
            "method.dim": 64,
            "method.projection_dim": 64,
            "method.clusterbook_epochs": 3,
            "method.clusterbook_lr": 1e-2,
            "method.clusterbook_temperature": 3.0,
            "method.positive_above": 0.9,
            "method.negative_below": 0.6,
            "method.temperature": 0.4,
            "method.lr": 1e-2,
            "method.clip_norm": 2.0,
        },
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
        "smooseg": {
            "method.shift_intra": 0.55,
            "method.shift_negative": 0.75,
            "method.decay": 0.98,
            "method.lr": 1e-2,
            "method.prototype_lr": 1e-3,
        },
    }
)


def data_defaults(method: str, data: str, chosen: Values) -> dict[str, Any]:
    """Lists what data set, backbone and protocol change in a method's defaults.

    Args:
        method: Name of the method.
        data: Name of the data set.
        chosen: Dotted keys that a preset, a search space's `fixed` or the user sets; they say
            which backbone and which protocol.

    Returns:
        Dotted keys and values, below all of `chosen`.
    """
    found = SCHEDULES.of(method)
    if data == SYNTHETIC:
        found |= EMBEDDED.of(method)
    if chosen.get("backbone.name", found.get("backbone.name")) == TEXTONS:
        found |= ON_TEXTONS.of(method)
    return found | protocol_settings(chosen.get("protocol", DEFAULT))
