"""Published settings of PPAP, whose positives follow proxies."""

from usseg_ray.sweeps.published.common import (
    BASE_8,
    FIVE_CROPS,
    FLOAT16,
    PROBE,
    SMALL_8,
    SMALL_16,
    WHOLE_TILES,
    frame_sizes,
    training_length,
)
from usseg_ray.sweeps.published.preset import Preset

_COCO = {**FIVE_CROPS, **training_length(5, 7632, 64)}

_CITYSCAPES = {
    **FIVE_CROPS,
    **training_length(30, 232, 64),
    "method.positive": 0.6,
    "method.rounds": 3,
    "method.weight_decay": 0.0,
    "method.cluster_lr": 1e-3,
}

_SOURCE = "Seong et al., ECCV 2024, official code: {}, {}." + FLOAT16

PROXIES: tuple[Preset, ...] = tuple(
    Preset(
        "ppap",
        data,
        _SOURCE.format(network, schedule),
        {**frame_sizes(224, 320), **PROBE, **settings},
        variant,
    )
    for data, network, schedule, settings, variant in (
        (
            "cocostuff27",
            "ViT-S/8",
            "5 epochs of five crops of each of 97,702 images",
            {**SMALL_8, **_COCO},
            "",
        ),
        (
            "cocostuff27",
            "ViT-S/16",
            "5 epochs of five crops; anchors of each image, theirs of four at a time",
            {
                **SMALL_16,
                **_COCO,
                "method.negative": 0.15,
                "method.negative_step": 4.0,
                "method.split": 4,
                "method.weight_decay": 0.01,
                "method.cluster_lr": 1e-3,
            },
            "vits16",
        ),
        (
            "cityscapes",
            "ViT-S/8",
            "30 epochs of five crops of each of 2,975 images",
            {**SMALL_8, **_CITYSCAPES},
            "",
        ),
        (
            "cityscapes",
            "ViT-B/8",
            "30 epochs of five crops of each of 2,975 images",
            {
                **BASE_8,
                **_CITYSCAPES,
                "method.temperature": 0.1,
                "method.negative_step": 2.0,
            },
            "vitb8",
        ),
        (
            "potsdam3",
            "ViT-B/8",
            "30 epochs of 4,545 tiles",
            {
                **BASE_8,
                **WHOLE_TILES,
                **training_length(30, 71, 64),
                "method.negative": 0.15,
                "method.rounds": 1,
                "method.positive_step": 5.0,
                "method.temperature": 0.07,
                "method.lr": 5e-4,
                "method.weight_decay": 0.0,
                "method.cluster_lr": 1e-3,
            },
            "",
        ),
    )
)
