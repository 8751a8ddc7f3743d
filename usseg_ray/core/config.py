"""One declaration of every setting: name, type, default, bounds, reason.

A run is one frozen `Config`. It is built from layers of dotted assignments
(`{"method.num_prototypes": 5}`), the later winning: defaults < the data set's own defaults < a
search space's `fixed` < a trial's sample < `--set`. The flattened form is what is logged, and
building from it gives an equal config.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from usseg_ray.core.errors import SettingError, unknown_key


class Settings(BaseModel):
    """Base of every group of settings: frozen, defaults checked, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class MethodConfig(Settings):
    """Base of every method's settings, which `usseg_ray.settings` declares."""

    context: float | None = Field(
        None,
        gt=0,
        description="Average codes (ACSeg: tokens) within their image before they are grouped and "
        "predicted from, at this many times the unlikeness of neighbours; 0.75 is usual.",
    )


Attention = Literal["cls", "minhead"]
"""How last-block attention is reduced to one number a patch (see `ops.attention`)."""


class Origin(Settings):
    """A trained model that another method starts from: all but its weights."""

    method: str
    num_clusters: int = Field(ge=1)
    settings: dict[str, JsonValue] = Field(description="Of the method.")
    sha256: str = Field(description="Of the file with its weights.")


class JitterConfig(Settings):
    """How strongly a view's colours change."""

    probability: float = Field(1.0, ge=0, le=1, description="Of each colour change.")
    brightness: float = Field(0.3, ge=0, le=1, description="Factor in 1 -/+ this.")
    contrast: float = Field(0.3, ge=0, le=1, description="Factor in 1 -/+ this.")
    saturation: float = Field(0.3, ge=0, le=1, description="Factor in 1 -/+ this.")
    hue: float = Field(0.1, ge=0, le=0.5, description="Shift in -/+ this, turns.")
    grey: float = Field(0.2, ge=0, le=1, description="Probability of a grey view.")
    blur: float = Field(0.5, ge=0, le=1, description="Probability of a blurred view.")


class DataConfig(Settings):
    """Which images are read, and at what size."""

    name: str = Field("synthetic", description="Prepared set: a folder, URI or name.")
    generator_seed: int = Field(0, ge=0, description="World of the built-in `synthetic` data.")
    train_split: str = "train"
    selection_split: str = Field("val", description="Trials are ranked on it.")
    test_split: str = Field("test", description="Scored once, by the best trial.")
    train_size: int = Field(224, ge=8, description="Side of a training crop, pixels.")
    crop_scale: float = Field(
        0.5, gt=0, le=1, description="Smallest share of the image's area in a training crop."
    )
    flip: bool = Field(True, description="Mirror half of the training crops.")
    crops: Literal["random", "centre", "five", "ten"] = Field(
        "random",
        description="Where training crops lie: drawn anew each time, always the largest centre "
        "square, or one after the other the corners and the centre (five), those of the mirror "
        "image too (ten).",
    )
    crop_ratios: tuple[float, ...] = Field(
        (0.5,), min_length=1, description="Sides of five or ten crops over those of the image."
    )
    crop_filter: Literal["bilinear", "nearest"] = Field(
        "bilinear", description="How training crops are resampled; official code mostly: nearest."
    )
    crop_jpeg: int | None = Field(
        None,
        ge=1,
        le=95,
        description="Pass five or ten crops through a JPEG file of this quality; official: 75.",
    )
    view_draws: int = Field(
        0,
        ge=0,
        description="Photometric views of a row that are drawn once and for all, so that their "
        "features can be stored; 0 draws a new one each time.",
    )
    eval_size: int = Field(
        448,
        ge=8,
        description="Short side, then side of the centre crop, for clustering and scores.",
    )
    shuffle_window: int = Field(512, ge=1, description="Rows that a worker mixes at a time.")
    keep_mib: int = Field(
        512, ge=0, description="Repeated passes stay decoded in a worker's memory up to this size."
    )

    @field_validator("crop_ratios")
    @classmethod
    def _within_the_image(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < ratio <= 1 for ratio in ratios):
            raise ValueError("every ratio lies above 0 and at most at 1")
        return ratios

    @model_validator(mode="after")
    def _only_kept_crops_are_recoded(self) -> Self:
        if self.crop_jpeg is not None and self.crops not in ("five", "ten"):
            raise ValueError("crop_jpeg is for crops=five or crops=ten alone")
        return self

    @model_validator(mode="after")
    def _only_fixed_crops_have_fixed_views(self) -> Self:
        if self.view_draws and (self.crops == "random" or self.flip):
            raise ValueError("view_draws is for fixed crops: crops=centre, five or ten, flip=false")
        return self


class BackboneConfig(Settings):
    """The frozen network whose patch features are grouped."""

    name: str = Field("vit_small_patch16_224.dino", description="A timm model name, or `textons`.")
    weights: str | None = Field(
        None, description="A safetensors file; without it, timm's cache and hub."
    )
    layer: int | tuple[int, ...] | None = Field(
        None,
        description="Block (ViT) or stage (CNN) to read, from 0; of several, [8, 11], the unit "
        "tokens side by side; the last one if unset.",
    )
    facet: Literal["token", "query", "key", "value"] = Field(
        "token",
        description="What is read of a ViT's block: its tokens, or a part of its attention.",
    )
    debias: int = Field(
        0,
        ge=0,
        description="Directions in which position shows that are taken out of tokens; 0: none.",
    )
    context: float | None = Field(
        None,
        gt=0,
        description="Average tokens within their image, at this many times the unlikeness of "
        "neighbours; 0.75 is usual.",
    )
    normalise: Literal["raw", "centred", "standardised"] = Field(
        "raw", description="Take the training images' mean token off, or scale channels too."
    )
    token_mean: tuple[float, ...] | None = Field(None, description="Measured for `normalise`.")
    token_std: tuple[float, ...] | None = Field(None, description="Measured for `normalise`.")
    timm_args: dict[str, JsonValue] = Field(
        default_factory=dict, description="Arguments of `timm.create_model` that a file needs."
    )
    mean: tuple[float, float, float] | None = Field(
        None, description="Input mean, RGB in [0, 1]; the model's own if unset."
    )
    std: tuple[float, float, float] | None = Field(
        None, description="Input deviation, RGB in [0, 1]; the model's own if unset."
    )
    note: str = Field("", description="Said beside every score, e.g. how the weights were made.")
    patch_size: int = Field(8, ge=2, description="Pixels per token of `textons`.")
    colour_weight: float = Field(1.0, ge=0, description="Weight of colour in `textons`.")
    position_weight: float = Field(0.0, ge=0, description="Weight of position in `textons`.")


class TrainConfig(Settings):
    """How long and in what portions a method learns."""

    epochs: int = Field(5, ge=1)
    batch_size: int = Field(32, ge=1, description="Images per step, over all workers.")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="Steps that make an epoch; one pass over the data if unset."
    )
    eval_batch_size: int = Field(16, ge=1, description="Images per forward pass in scoring.")
    eval_every: int = Field(1, ge=1, description="Epochs between scores; the last always has one.")


class ResourceConfig(Settings):
    """What a trial may use."""

    num_workers: int | str = Field(
        "auto",
        description="Processes that train one trial together; 0: it trains in its own process, "
        "which starts quickly; auto: 0 for short trials, else 1; MIN-MAX: as many as there is room "
        "for, train.batch_size images per step whatever their number.",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of the backbone; auto: bfloat16 on CUDA, with TF32 in large losses' products.",
    )
    cpus_per_worker: float = Field(0.75, gt=0, description="CPU share of a training process.")
    data_cpus_per_worker: float = Field(
        0.25, gt=0, description="CPU share of the tasks that read and decode for it."
    )
    gpus_per_worker: float = Field(1.0, gt=0, description="Used when the device is CUDA.")
    threads: int = Field(1, ge=1, description="CPU threads of a training process.")
    features: Literal["auto", "cache", "recompute"] = Field(
        "auto",
        description="Whether the frozen backbone's features of images that come again and again "
        "are computed once and stored; auto: those read more than once, where they fit.",
    )

    @field_validator("num_workers", mode="before")
    @classmethod
    def _auto_or_counts(cls, value: object) -> object:
        counted = isinstance(value, int) and value >= 0
        found = re.fullmatch(r"(\d+)-(\d+)", value) if isinstance(value, str) else None
        ranged = found is not None and 1 <= int(found[1]) < int(found[2])
        if not (counted or ranged or value == "auto"):
            raise ValueError(
                "either auto, 0 (the trial's own process), a number of processes, or MIN-MAX"
            )
        return value

    def arithmetic(self, device: str) -> Literal["float32", "bfloat16"]:
        """Says what the backbone computes in on a device, `cpu` or `cuda`."""
        if self.precision == "auto":
            return "bfloat16" if device == "cuda" else "float32"
        return self.precision

    @property
    def processes(self) -> int:
        """How many processes train one trial, at most; `auto` chooses between two forms of one."""
        return self._ends[1]

    @property
    def fewest(self) -> int:
        """With how many processes a trial goes on where there is no room for more."""
        return self._ends[0]

    @property
    def _ends(self) -> tuple[int, int]:
        if self.num_workers == "auto":
            return 1, 1
        low, _, high = str(self.num_workers).partition("-")
        return max(1, int(low)), max(1, int(high or low))


M = TypeVar("M", bound=MethodConfig)


class Config(Settings, Generic[M]):
    """Everything that decides a run's result, and the machine share that it asks for."""

    seed: int = Field(0, ge=0)
    num_clusters: int | None = Field(
        None, ge=2, description="K; taken from the data's classes if unset."
    )
    clusters_per_class: float = Field(
        1.0, gt=0, description="Where num_clusters is unset: K = this times the classes, rounded."
    )
    protocol: str = Field(
        "centre-crop", description="What scores are measured under; docs/protocols.md lists them."
    )
    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    method: M
    train: TrainConfig = TrainConfig()
    resources: ResourceConfig = ResourceConfig()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels by its fields: a class that is made of a type variable cannot be imported."""
        return _travelled, (type(self.method), dict(self), self.model_fields_set)


def _travelled(
    method_config: type[M], fields: dict[str, Any], given: set[str]
) -> Config[M]:  # the fields were checked where they come from
    return Config[method_config].model_construct(given, **fields)  # type: ignore[valid-type]


def build_config(method_config: type[M], layers: Iterable[Mapping[str, Any]]) -> Config[M]:
    """Builds a config from layers of dotted assignments, the later winning.

    Args:
        method_config: Settings class of the method, `SomeMethod.Config`.
        layers: Mappings such as `{"method.gamma": 1.5, "num_clusters": 12}`.

    Returns:
        The validated, frozen config.

    Raises:
        SettingError: A key does not exist (with the nearest that does) or a value is out of bounds.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    _check_keys(method_config, merged)
    return _validated(method_config, unflatten({"method": {}} | merged))


def with_values(config: Config[M], values: Mapping[str, Any]) -> Config[M]:
    """Gives dotted keys of a config other values; only the groups that have them are checked.

    Args:
        config: A config.
        values: Such as `{"method.gamma": 1.5}`.

    Returns:
        Another config, frozen as well.

    Raises:
        SettingError: As for `build_config`.
    """
    method_config = type(config.method)
    _check_keys(method_config, values)
    touched, tree = {key.split(".")[0] for key in values}, unflatten({**flatten(config), **values})
    groups = {name: tree[name] if name in touched else value for name, value in config}
    return _validated(method_config, groups)


def _check_keys(method_config: type[MethodConfig], keys: Iterable[str]) -> None:
    known = known_keys(method_config)
    for key in keys:
        if key not in known and not key.startswith(("backbone.timm_args.", "method.origin.")):
            raise SettingError(unknown_key(key, known), key)


def _validated(method_config: type[M], tree: Mapping[str, Any]) -> Config[M]:
    try:
        return Config[method_config].model_validate(tree)  # type: ignore[valid-type]
    except ValidationError as error:
        first = error.errors()[0]
        # Behind the key, pydantic names the alternative of its type, or an item.
        where = ".".join(str(part) for part in first["loc"])
        known = known_keys(method_config)
        where = next((key for key in known if f"{where}.".startswith(f"{key}.")), where)
        raise SettingError(
            f"{where} = {first['input']!r}: {first['msg']}. --dry-run --keys lists every key.",
            where,
        ) from None


def known_keys(method_config: type[MethodConfig]) -> dict[str, str]:
    """Lists every dotted key of a method's config.

    Args:
        method_config: Settings class of the method.

    Returns:
        Dotted key -> description, in declaration order.
    """
    keys: dict[str, str] = {}

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            annotation = method_config if prefix + name == "method" else field.annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                walk(annotation, f"{prefix}{name}.")
            else:
                keys[prefix + name] = field.description or ""

    walk(Config, "")
    return keys


def flatten(config: Mapping[str, Any] | BaseModel, prefix: str = "") -> dict[str, Any]:
    """Turns a config into dotted keys and plain values, the inverse of `unflatten`."""
    tree = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turns dotted keys into a tree; a later key wins over an earlier one."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        # A copy, since a later key may put something into it.
        node[leaf] = dict(value) if isinstance(value, Mapping) else value
    return tree
