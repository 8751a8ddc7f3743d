"""Published settings of methods that learn from correspondences of features: STEGO and EQUSS."""

from usseg_ray.sweeps.published.common import (
    BASE_8,
    FIVE_CROPS,
    FLOAT32,
    PROBE,
    SMALL_8,
    WHOLE_TILES,
    frame_sizes,
    training_length,
)
from usseg_ray.sweeps.published.preset import Preset

_STEGO = {**frame_sizes(224, 320), **training_length(10, 500, 16), **PROBE, "method.dim": 70}

_STEGO_SOURCE = "Hamilton et al., ICLR 2022, official configuration, "


def _stego(
    weights: tuple[float, float, float], shifts: tuple[float, float, float]
) -> dict[str, float]:
    """Names weights and shifts of pairs within an image, with a neighbour and with another."""
    names = ("intra", "inter", "negative")
    found = {f"method.weight_{name}": w for name, w in zip(names, weights, strict=True)}
    return found | {f"method.shift_{name}": b for name, b in zip(names, shifts, strict=True)}


_EQUSS = {**frame_sizes(224, 320), **PROBE, "method.lr": 3e-4, "method.cluster_lr": 3e-3}

_EQUSS_COCO = {**_EQUSS, **FIVE_CROPS, **training_length(3, 30531, 16)}

_EQUSS_CITYSCAPES = {
    **_EQUSS,
    **FIVE_CROPS,
    "method.codebook_size": 32,
    **training_length(15, 929, 16),
    **_stego((1.0, 0.43, 0.95), (0.36, 0.22, 0.31)),
}

_EQUSS_POTSDAM = {**_EQUSS, **WHOLE_TILES, **training_length(15, 284, 16)}

_EQUSS_SOURCE = "Kim et al., AAAI 2024, official code: {}, {}." + FLOAT32

_EQUSS_SCHEDULES = {
    "cocostuff27": "3 epochs of five crops of each of 97,702 images",
    "cityscapes": "15 epochs of five crops of each of 2,975 images",
    "potsdam3": "epochs and codebooks assumed, 15 and 256",
}

CORRESPONDENCE: tuple[Preset, ...] = (
    Preset(
        "stego",
        "cocostuff27",
        _STEGO_SOURCE + "COCO ViT-S (1/31/22), 5,000 steps." + FLOAT32,
        {**_STEGO, **SMALL_8, **FIVE_CROPS, **_stego((0.67, 0.25, 0.63), (0.08, 0.02, 0.66))},
    ),
    Preset(
        "stego",
        "cocostuff27",
        _STEGO_SOURCE + "COCO ViT-B (10/3), 5,000 steps." + FLOAT32,
        {**_STEGO, **BASE_8, **FIVE_CROPS, **_stego((0.1, 1.0, 0.15385), (0.12, 0.2, 1.0))},
        "vitb8",
    ),
    Preset(
        "stego",
        "cityscapes",
        _STEGO_SOURCE
        + "Cityscapes (10/3), ViT-B/8, 5,000 steps; the released checkpoint differs."
        + FLOAT32,
        {
            **_STEGO,
            **BASE_8,
            **FIVE_CROPS,
            **_stego((1.0, 0.57745, 0.90588), (0.45828, 0.17543, 0.31361)),
        },
    ),
    Preset(
        "stego",
        "potsdam3",
        _STEGO_SOURCE + "Potsdam ViT-S (1/31/22), 5,000 steps; the paper states ViT-B/8." + FLOAT32,
        {**_STEGO, **SMALL_8, **WHOLE_TILES, **_stego((0.67, 0.25, 0.63), (0.08, 0.02, 0.46))},
    ),
    *(
        Preset(
            "equss",
            data,
            _EQUSS_SOURCE.format(network, _EQUSS_SCHEDULES[data]),
            settings,
            variant,
        )
        for data, network, settings, variant in (
            (
                "cocostuff27",
                "ViT-S/8",
                {**_EQUSS_COCO, **SMALL_8, **_stego((0.47, 0.45, 0.53), (0.18, 0.02, 0.23))},
                "",
            ),
            (
                "cocostuff27",
                "ViT-B/8",
                {**_EQUSS_COCO, **BASE_8, **_stego((0.1, 1.0, 0.15), (0.1, 0.2, 1.0))},
                "vitb8",
            ),
            ("cityscapes", "ViT-S/8", {**_EQUSS_CITYSCAPES, **SMALL_8}, ""),
            ("cityscapes", "ViT-B/8", {**_EQUSS_CITYSCAPES, **BASE_8}, "vitb8"),
            (
                "potsdam3",
                "ViT-S/8",
                {**_EQUSS_POTSDAM, **SMALL_8, **_stego((0.67, 0.25, 0.63), (0.08, 0.02, 0.46))},
                "",
            ),
            (
                "potsdam3",
                "ViT-B/8",
                {**_EQUSS_POTSDAM, **BASE_8, **_stego((0.67, 0.25, 0.63), (0.21, 0.12, 0.26))},
                "vitb8",
            ),
        )
    ),
)
