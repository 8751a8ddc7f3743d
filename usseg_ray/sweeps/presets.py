"""Published presets: the settings of one method on one data set, as its authors ran it.

Each is a record to read beside its source, not a measured result. A preset says what the published
run set and nothing about where files lie: the data set is prepared under any name (`--data`).

Crops that they cut beforehand and kept as JPEG files are cut here while reading, from the image as
it is stored, and recoded the same way (`data.crops`, `data.crop_jpeg`).

Steps are counted from the official lists: COCO-Stuff's has 97,702 training images, of which a
prepared set holds some out as its selection split (docs/data.md).
"""

from typing import Any

from usseg_ray.core.errors import UserError, unknown_name
from usseg_ray.sweeps.published.common import (
    ASSUMED_FLOAT,
    BASE_8,
    FIVE_CROPS,
    FLOAT16,
    FLOAT32,
    OWN_NETWORK,
    PROBE,
    SMALL_8,
    SMALL_16,
    STEGO_320,
    WHOLE_TILES,
    frame_sizes,
    training_length,
)
from usseg_ray.sweeps.published.correspondence import CORRESPONDENCE
from usseg_ray.sweeps.published.preset import Preset
from usseg_ray.sweeps.published.proxies import PROXIES

_ACSEG = {
    **SMALL_16,
    **frame_sizes(224, 448),
    **training_length(5, 500, 32),
    "method.num_prototypes": 5,
}

_ACSEG_SOURCE = "Li et al., CVPR 2023: ViT-S/16, 5 prototypes, 2,500 steps, "

_HP = {
    **frame_sizes(224, 320),
    **PROBE,
    "method.lr": 5e-4,
    "method.weight_decay": 0.1,
    "method.clip_norm": 10.0,
}

_HP_CITYSCAPES = {
    "method.temperature": 0.6,
    "method.renewal_steps": 20,
    "method.decay": 0.999,
    "method.ramp_start": 50,
}

_HP_POTSDAM = {
    "method.dim": 256,
    "method.temperature": 0.4,
    "method.consistency_weight": 0.0,
    "method.denominator_share": 1.0,
    "method.pool_size": 1024,
    "method.renewal_steps": 20,
    "method.decay": 0.999,
    "method.ramp_start": 100,
}

_HP_SOURCE = "Seong et al., CVPR 2023, official code"

_SMOOSEG_SOURCE = "Lan et al., NeurIPS 2023, official code"

_PRIMAPS = {
    **STEGO_320,
    **frame_sizes(320, 320),
    **training_length(50, None, 32),
    "data.crops": "centre",
    "data.crop_filter": "nearest",
    "data.flip": True,
}

_PRIMAPS_SOURCE = (
    "Hahn et al., TMLR 2024, official code: {}, 50 epochs of whole images; masks are not "
    "refined by a CRF, theirs are." + FLOAT32
)

# Official steps are made on four GPUs that exchange no gradients: each learns alone, from a quarter
# of the crops, at 4e-3.
_CAUSE = {
    **SMALL_8,
    **FIVE_CROPS,
    **PROBE,
    "method.clusterbook_epochs": 1,
    "method.clusterbook_lr": 4e-3,
    "method.lr": 4e-3,
    "method.probe_lr": 4e-3,
}

_CAUSE_COCO = {**_CAUSE, **training_length(2, 7633, 16), "method.weight_decay": 1e-4}

_CAUSE_CITYSCAPES = {
    **_CAUSE,
    **training_length(2, 233, 16),
    "method.weight_decay": 0.0,
    "method.clip_norm": 1.0,
}

_MLP = {"method.head": "mlp", "method.probe_epochs": 1, **frame_sizes(224, 320)}

_TR = {"method.head": "tr", "method.probe_epochs": 5, **frame_sizes(320, 320)}

_CAUSE_SOURCE = "Kim et al., 2023 (arXiv 2310.07379), official code and its 4-GPU rate; "

_NO_LEAK = "no label reaches the last stage, which theirs lets in." + FLOAT16

_PICIE = {
    "protocol": "picie-320",
    **frame_sizes(320, 320),
    **training_length(10, None, 128),
    "data.crop_scale": 0.25,
    "data.flip": True,
    "method.network.name": "resnet18.tv_in1k",
    "method.cluster_batch": 256,
    "method.init_batches": 20,
}

_PICIE_SOURCE = "Cho et al., CVPR 2021, official scripts"

_CURATED = (
    " For the 49,629 training images of its own list, Coarse_7: prepare cocostuff27-curated."
    + OWN_NETWORK
)

_KMEANS_SOURCE = (
    "Hahn et al., TMLR 2024: k-means of DINO's tokens beside their method, at 320 pixels; how they "
    "fit it is not known." + ASSUMED_FLOAT
)

PRESETS: tuple[Preset, ...] = (
    *(
        Preset("kmeans", data, _KMEANS_SOURCE, {**SMALL_8, **frame_sizes(320, 320), **STEGO_320})
        for data in ("cocostuff27", "cityscapes", "potsdam3")
    ),
    Preset(
        "acseg",
        "voc2012",
        _ACSEG_SOURCE + "background by attention; batch, rate and sizes assumed." + ASSUMED_FLOAT,
        {**_ACSEG, "method.background": "split"},
    ),
    Preset(
        "acseg",
        "cocostuff27",
        _ACSEG_SOURCE + "all concepts classified; batch, rate and sizes assumed." + ASSUMED_FLOAT,
        {**_ACSEG, "method.background": "none"},
    ),
    *CORRESPONDENCE,
    Preset(
        "hp",
        "cocostuff27",
        _HP_SOURCE + ": 3 epochs of five crops of each of 97,702 images." + FLOAT16,
        {**_HP, **SMALL_8, **FIVE_CROPS, **training_length(3, 7632, 64)},
    ),
    Preset(
        "hp",
        "cityscapes",
        _HP_SOURCE + ": 30 epochs of five crops of each of 2,975 images." + FLOAT16,
        {**_HP, **SMALL_8, **FIVE_CROPS, **training_length(30, 232, 64), **_HP_CITYSCAPES},
    ),
    Preset(
        "hp",
        "potsdam3",
        _HP_SOURCE + ": 10 epochs of 4,545 tiles." + FLOAT16,
        {**_HP, **BASE_8, **WHOLE_TILES, **training_length(10, 71, 64), **_HP_POTSDAM},
    ),
    *PROXIES,
    Preset(
        "smooseg",
        "cocostuff27",
        _SMOOSEG_SOURCE + "; 8,000 steps are recalled from the paper." + FLOAT16,
        {
            **SMALL_8,
            **FIVE_CROPS,
            **frame_sizes(224, 320),
            **training_length(16, 500, 32),
            "method.shift_intra": -0.02,
            "method.shift_negative": 0.48,
        },
    ),
    Preset(
        "smooseg",
        "cityscapes",
        _SMOOSEG_SOURCE + ": ViT-S/8, 3,000 steps." + FLOAT16,
        {
            **SMALL_8,
            **FIVE_CROPS,
            **frame_sizes(224, 320),
            **training_length(6, 500, 32),
            "method.shift_intra": -0.02,
            "method.shift_negative": 0.5,
        },
    ),
    Preset(
        "smooseg",
        "potsdam3",
        _SMOOSEG_SOURCE + ": ViT-B/8, 3,000 steps, scored at 224 pixels." + FLOAT16,
        {
            **BASE_8,
            **WHOLE_TILES,
            "protocol": "smooseg-224",
            **frame_sizes(224, 224),
            **training_length(6, 500, 32),
            "method.shift_intra": 0.1,
            "method.shift_negative": 0.5,
        },
    ),
    *(
        Preset(
            "primaps",
            data,
            _PRIMAPS_SOURCE.format(network),
            {**_PRIMAPS, **backbone},
            variant,
        )
        for network, backbone, variant in (
            ("ViT-S/8", SMALL_8, ""),
            ("ViT-B/8", BASE_8, "vitb8"),
        )
        for data in ("cocostuff27", "cityscapes", "potsdam3")
    ),
    Preset(
        "cause",
        "cocostuff27",
        _CAUSE_SOURCE + "the clusterbook learns at 224 pixels, theirs at 320; " + _NO_LEAK,
        {**_CAUSE_COCO, **_MLP, "method.clip_norm": 0.1},
        "mlp",
    ),
    Preset(
        "cause",
        "cocostuff27",
        _CAUSE_SOURCE + _NO_LEAK,
        {**_CAUSE_COCO, **_TR, "method.clip_norm": 2.0},
        "tr",
    ),
    Preset(
        "cause",
        "cityscapes",
        _CAUSE_SOURCE + "the clusterbook learns at 224 pixels, theirs at 320; " + _NO_LEAK,
        {**_CAUSE_CITYSCAPES, **_MLP},
        "mlp",
    ),
    Preset(
        "cause",
        "cityscapes",
        _CAUSE_SOURCE + _NO_LEAK,
        {**_CAUSE_CITYSCAPES, **_TR},
        "tr",
    ),
    Preset(
        "picie",
        "cocostuff27",
        _PICIE_SOURCE + ": ResNet-18, 10 epochs, rate 1e-4." + _CURATED,
        {**_PICIE, "method.variant": "picie", "method.lr": 1e-4},
    ),
    Preset(
        "picie",
        "cocostuff27",
        "Cho et al., CVPR 2021, the paper's PiCIE+H (K 27 and 100), from memory; else as PiCIE."
        + _CURATED,
        {**_PICIE, "method.variant": "over_clustering", "method.lr": 1e-4},
        "h",
    ),
    Preset(
        "picie",
        "cocostuff27",
        _PICIE_SOURCE + " of the baseline, modified DeepCluster." + _CURATED,
        {**_PICIE, "method.variant": "mdc", "method.lr": 1e-4},
        "mdc",
    ),
    Preset(
        "picie",
        "cityscapes",
        _PICIE_SOURCE
        + ": rate 1e-3; trained there on the folders test and train_extra."
        + OWN_NETWORK,
        {**_PICIE, "method.variant": "picie", "method.lr": 1e-3},
    ),
    Preset(
        "picie",
        "cityscapes",
        _PICIE_SOURCE
        + " of the baseline: rate 1e-3, first centroids on 30 batches, in 30 iterations."
        + OWN_NETWORK,
        {
            **_PICIE,
            "method.variant": "mdc",
            "method.lr": 1e-3,
            "method.init_batches": 30,
            "method.kmeans_iterations": 30,
        },
        "mdc",
    ),
)


def find_preset(name: str) -> Preset:
    """Finds a published preset.

    Args:
        name: As in `--preset`.

    Returns:
        The preset.

    Raises:
        UserError: There is none of that name; says the nearest.
    """
    known = {preset.name: preset for preset in PRESETS}
    if name in known:
        return known[name]
    raise unknown_name("preset", name, known)


def preset_settings(name: str | None, methods: list[str]) -> dict[str, Any]:
    """Lists the settings of `--preset` for the methods of a run.

    Args:
        name: As in `--preset`; nothing if unset.
        methods: Methods of the run.

    Returns:
        Dotted keys and values.

    Raises:
        UserError: The preset does not exist or is another method's.
    """
    if name is None:
        return {}
    preset = find_preset(name)
    if methods != [preset.method]:
        raise UserError(
            f"--preset {name} is for method {preset.method!r} alone, not for {', '.join(methods)}."
        )
    return dict(preset.settings)
