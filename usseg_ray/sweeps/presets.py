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
from usseg_ray.sweeps.published.preset import Preset


def _schedule(epochs: int, steps: int | None, batch_size: int) -> dict[str, Any]:
    return {
        "train.epochs": epochs,
        "train.steps_per_epoch": steps,
        "train.batch_size": batch_size,
    }


def _sizes(train: int, evaluation: int) -> dict[str, Any]:
    return {"data.train_size": train, "data.eval_size": evaluation}


_SMALL_16 = {"backbone.name": "vit_small_patch16_224.dino"}
_SMALL_8 = {"backbone.name": "vit_small_patch8_224.dino"}
_BASE_8 = {"backbone.name": "vit_base_patch8_224.dino"}
_STEGO_320 = {"protocol": "stego-320"}

_FIVE_CROPS = {
    **_STEGO_320,
    "data.crops": "five",
    "data.crop_ratios": [0.5],
    "data.crop_filter": "nearest",
    "data.crop_jpeg": 75,
    "data.flip": False,
}

_WHOLE_TILES = {
    **_STEGO_320,
    "data.crops": "centre",
    "data.crop_filter": "nearest",
    "data.flip": False,
}

_FLOAT32 = " Backbone in bfloat16 on CUDA, theirs in float32."
_FLOAT16 = " Backbone in bfloat16 on CUDA, theirs and their losses in float16."
_ASSUMED_FLOAT = " Backbone in bfloat16 on CUDA; theirs is not known."

# PiCIE's network learns, so it is no frozen backbone.
_OWN_NETWORK = " Its network is float32 on CUDA too, as theirs; bfloat16 is for frozen backbones."

_ACSEG = {**_SMALL_16, **_sizes(224, 448), **_schedule(5, 500, 32), "method.num_prototypes": 5}

_ACSEG_SOURCE = "Li et al., CVPR 2023: ViT-S/16, 5 prototypes, 2,500 steps, "

_PROBE = {"method.clustering": "probe"}

_STEGO = {**_sizes(224, 320), **_schedule(10, 500, 16), **_PROBE, "method.dim": 70}

_STEGO_SOURCE = "Hamilton et al., ICLR 2022, official configuration, "


def _stego(
    weights: tuple[float, float, float], shifts: tuple[float, float, float]
) -> dict[str, float]:
    """Names weights and shifts of pairs within an image, with a neighbour and with another."""
    names = ("intra", "inter", "negative")
    found = {f"method.weight_{name}": w for name, w in zip(names, weights, strict=True)}
    return found | {f"method.shift_{name}": b for name, b in zip(names, shifts, strict=True)}


_EQUSS = {**_sizes(224, 320), **_PROBE, "method.lr": 3e-4, "method.cluster_lr": 3e-3}

_EQUSS_COCO = {**_EQUSS, **_FIVE_CROPS, **_schedule(3, 30531, 16)}

_EQUSS_CITYSCAPES = {
    **_EQUSS,
    **_FIVE_CROPS,
    "method.codebook_size": 32,
    **_schedule(15, 929, 16),
    **_stego((1.0, 0.43, 0.95), (0.36, 0.22, 0.31)),
}

_EQUSS_POTSDAM = {**_EQUSS, **_WHOLE_TILES, **_schedule(15, 284, 16)}

_EQUSS_SOURCE = "Kim et al., AAAI 2024, official code: {}, {}." + _FLOAT32

_EQUSS_SCHEDULES = {
    "cocostuff27": "3 epochs of five crops of each of 97,702 images",
    "cityscapes": "15 epochs of five crops of each of 2,975 images; nearest vectors, theirs are "
    "drawn with Gumbel noise",
    "potsdam3": "epochs and codebooks assumed, 15 and 256",
}

_HP = {
    **_sizes(224, 320),
    **_PROBE,
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
    **_STEGO_320,
    **_sizes(320, 320),
    **_schedule(50, None, 32),
    "data.crops": "centre",
    "data.crop_filter": "nearest",
    "data.flip": True,
}

_PRIMAPS_SOURCE = (
    "Hahn et al., TMLR 2024, official code: {}, 50 epochs of whole images; masks are not "
    "refined by a CRF, theirs are." + _FLOAT32
)

# Official steps are made on four GPUs that exchange no gradients: each learns alone, from a quarter
# of the crops, at 4e-3.
_CAUSE = {
    **_SMALL_8,
    **_FIVE_CROPS,
    **_PROBE,
    "method.clusterbook_epochs": 1,
    "method.clusterbook_lr": 4e-3,
    "method.lr": 4e-3,
    "method.probe_lr": 4e-3,
}

_CAUSE_COCO = {**_CAUSE, **_schedule(2, 7633, 16), "method.weight_decay": 1e-4}

_CAUSE_CITYSCAPES = {
    **_CAUSE,
    **_schedule(2, 233, 16),
    "method.weight_decay": 0.0,
    "method.clip_norm": 1.0,
}

_MLP = {"method.head": "mlp", "method.probe_epochs": 1, **_sizes(224, 320)}

_TR = {"method.head": "tr", "method.probe_epochs": 5, **_sizes(320, 320)}

_CAUSE_SOURCE = "Kim et al., 2023 (arXiv 2310.07379), official code and its 4-GPU rate; "

_NO_LEAK = "no label reaches the last stage, which theirs lets in." + _FLOAT16

_PICIE = {
    "protocol": "picie-320",
    **_sizes(320, 320),
    **_schedule(10, None, 128),
    "data.crop_scale": 0.25,
    "data.flip": True,
    "method.network.name": "resnet18.tv_in1k",
    "method.cluster_batch": 256,
    "method.init_batches": 20,
}

_PICIE_SOURCE = "Cho et al., CVPR 2021, official scripts"

_CURATED = (
    " For the 49,629 training images of its own list, Coarse_7: prepare cocostuff27-curated."
    + _OWN_NETWORK
)

_KMEANS_SOURCE = (
    "Hahn et al., TMLR 2024: k-means of DINO's tokens beside their method, at 320 pixels; how they "
    "fit it is not known." + _ASSUMED_FLOAT
)

PRESETS: tuple[Preset, ...] = (
    *(
        Preset("kmeans", data, _KMEANS_SOURCE, {**_SMALL_8, **_sizes(320, 320), **_STEGO_320})
        for data in ("cocostuff27", "cityscapes", "potsdam3")
    ),
    Preset(
        "acseg",
        "voc2012",
        _ACSEG_SOURCE + "background by attention; batch, rate and sizes assumed." + _ASSUMED_FLOAT,
        {**_ACSEG, "method.background": "split"},
    ),
    Preset(
        "acseg",
        "cocostuff27",
        _ACSEG_SOURCE + "all concepts classified; batch, rate and sizes assumed." + _ASSUMED_FLOAT,
        {**_ACSEG, "method.background": "none"},
    ),
    Preset(
        "stego",
        "cocostuff27",
        _STEGO_SOURCE + "COCO ViT-S (1/31/22), 5,000 steps." + _FLOAT32,
        {**_STEGO, **_SMALL_8, **_FIVE_CROPS, **_stego((0.67, 0.25, 0.63), (0.08, 0.02, 0.66))},
    ),
    Preset(
        "stego",
        "cocostuff27",
        _STEGO_SOURCE + "COCO ViT-B (10/3), 5,000 steps." + _FLOAT32,
        {**_STEGO, **_BASE_8, **_FIVE_CROPS, **_stego((0.1, 1.0, 0.15385), (0.12, 0.2, 1.0))},
        "vitb8",
    ),
    Preset(
        "stego",
        "cityscapes",
        _STEGO_SOURCE
        + "Cityscapes (10/3), ViT-B/8, 5,000 steps; the released checkpoint differs."
        + _FLOAT32,
        {
            **_STEGO,
            **_BASE_8,
            **_FIVE_CROPS,
            **_stego((1.0, 0.57745, 0.90588), (0.45828, 0.17543, 0.31361)),
        },
    ),
    Preset(
        "stego",
        "potsdam3",
        _STEGO_SOURCE
        + "Potsdam ViT-S (1/31/22), 5,000 steps; the paper states ViT-B/8."
        + _FLOAT32,
        {**_STEGO, **_SMALL_8, **_WHOLE_TILES, **_stego((0.67, 0.25, 0.63), (0.08, 0.02, 0.46))},
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
                {**_EQUSS_COCO, **_SMALL_8, **_stego((0.47, 0.45, 0.53), (0.18, 0.02, 0.23))},
                "",
            ),
            (
                "cocostuff27",
                "ViT-B/8",
                {**_EQUSS_COCO, **_BASE_8, **_stego((0.1, 1.0, 0.15), (0.1, 0.2, 1.0))},
                "vitb8",
            ),
            ("cityscapes", "ViT-S/8", {**_EQUSS_CITYSCAPES, **_SMALL_8}, ""),
            ("cityscapes", "ViT-B/8", {**_EQUSS_CITYSCAPES, **_BASE_8}, "vitb8"),
            (
                "potsdam3",
                "ViT-S/8",
                {**_EQUSS_POTSDAM, **_SMALL_8, **_stego((0.67, 0.25, 0.63), (0.08, 0.02, 0.46))},
                "",
            ),
            (
                "potsdam3",
                "ViT-B/8",
                {**_EQUSS_POTSDAM, **_BASE_8, **_stego((0.67, 0.25, 0.63), (0.21, 0.12, 0.26))},
                "vitb8",
            ),
        )
    ),
    Preset(
        "hp",
        "cocostuff27",
        _HP_SOURCE + ": 3 epochs of five crops of each of 97,702 images." + _FLOAT16,
        {**_HP, **_SMALL_8, **_FIVE_CROPS, **_schedule(3, 7632, 64)},
    ),
    Preset(
        "hp",
        "cityscapes",
        _HP_SOURCE + ": 30 epochs of five crops of each of 2,975 images." + _FLOAT16,
        {**_HP, **_SMALL_8, **_FIVE_CROPS, **_schedule(30, 232, 64), **_HP_CITYSCAPES},
    ),
    Preset(
        "hp",
        "potsdam3",
        _HP_SOURCE + ": 10 epochs of 4,545 tiles." + _FLOAT16,
        {**_HP, **_BASE_8, **_WHOLE_TILES, **_schedule(10, 71, 64), **_HP_POTSDAM},
    ),
    Preset(
        "smooseg",
        "cocostuff27",
        _SMOOSEG_SOURCE + "; 8,000 steps are recalled from the paper." + _FLOAT16,
        {
            **_SMALL_8,
            **_FIVE_CROPS,
            **_sizes(224, 320),
            **_schedule(16, 500, 32),
            "method.shift_intra": -0.02,
            "method.shift_negative": 0.48,
        },
    ),
    Preset(
        "smooseg",
        "cityscapes",
        _SMOOSEG_SOURCE + ": ViT-S/8, 3,000 steps." + _FLOAT16,
        {
            **_SMALL_8,
            **_FIVE_CROPS,
            **_sizes(224, 320),
            **_schedule(6, 500, 32),
            "method.shift_intra": -0.02,
            "method.shift_negative": 0.5,
        },
    ),
    Preset(
        "smooseg",
        "potsdam3",
        _SMOOSEG_SOURCE + ": ViT-B/8, 3,000 steps, scored at 224 pixels." + _FLOAT16,
        {
            **_BASE_8,
            **_WHOLE_TILES,
            "protocol": "smooseg-224",
            **_sizes(224, 224),
            **_schedule(6, 500, 32),
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
            ("ViT-S/8", _SMALL_8, ""),
            ("ViT-B/8", _BASE_8, "vitb8"),
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
        + _OWN_NETWORK,
        {**_PICIE, "method.variant": "picie", "method.lr": 1e-3},
    ),
    Preset(
        "picie",
        "cityscapes",
        _PICIE_SOURCE
        + " of the baseline: rate 1e-3, first centroids on 30 batches, in 30 iterations."
        + _OWN_NETWORK,
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
