"""What published settings have in common: networks, crops, frames, and remarks on precision."""

from typing import Any


def training_length(epochs: int, steps: int | None, batch_size: int) -> dict[str, Any]:
    """Names epochs, the steps of one (a walk over the images if unset), and images of a step."""
    return {
        "train.epochs": epochs,
        "train.steps_per_epoch": steps,
        "train.batch_size": batch_size,
    }


def frame_sizes(train: int, evaluation: int) -> dict[str, Any]:
    """Names the frames of training and of scores, pixels."""
    return {"data.train_size": train, "data.eval_size": evaluation}


SMALL_16 = {"backbone.name": "vit_small_patch16_224.dino"}
SMALL_8 = {"backbone.name": "vit_small_patch8_224.dino"}
BASE_8 = {"backbone.name": "vit_base_patch8_224.dino"}
STEGO_320 = {"protocol": "stego-320"}

FIVE_CROPS = {
    **STEGO_320,
    "data.crops": "five",
    "data.crop_ratios": [0.5],
    "data.crop_filter": "nearest",
    "data.crop_jpeg": 75,
    "data.flip": False,
}

WHOLE_TILES = {
    **STEGO_320,
    "data.crops": "centre",
    "data.crop_filter": "nearest",
    "data.flip": False,
}

FLOAT32 = " Backbone in bfloat16 on CUDA, theirs in float32."
FLOAT16 = " Backbone in bfloat16 on CUDA, theirs and their losses in float16."
ASSUMED_FLOAT = " Backbone in bfloat16 on CUDA; theirs is not known."

OWN_NETWORK = " Its network is float32 on CUDA too, as theirs; bfloat16 is for frozen backbones."
"""Where a network learns, which is no frozen backbone: PiCIE's."""

PROBE = {"method.clustering": "probe"}
"""Centroids that are learnt beside the head."""
