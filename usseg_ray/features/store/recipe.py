"""What stored features are: everything that decides their values, and the key made of it.

First on the path of a stored feature: recipe -> `extraction` (computes) -> `blocks` (keeps) -> a
batch. An entry is found by the hash of its recipe, so there is nothing to invalidate: whatever
changes asks for another entry. What is read beside patch tokens is no part of the recipe, so that a
method that needs more adds to an entry instead of making a second one.
"""

import hashlib
import json
from dataclasses import replace
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import nn

from usseg_ray.core.config import Attention, BackboneConfig, JitterConfig, Settings
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import MaskRecipe, Needs
from usseg_ray.core.views import Crops, Frame
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.reading import Showing
from usseg_ray.features.backbones import Backbone, TimmFeatures

PREPROCESSING = 1
"""Raise it when decoding, framing, cropping, colour changes or the features' own code
(`data.decode`, `data.transforms`, `data.reading`, `ops.photometric`, `ops.attention`, `backbones`,
`textons`) come to give other values for the same recipe; every entry is then computed anew."""

Arithmetic = Literal["float32", "bfloat16"]
Part = str
"""What an entry may hold of every row, see `types.FeatureMap`: one of `PARTS`, or `masks_part`."""
PARTS: tuple[Part, ...] = ("tokens", "saliency_cls", "saliency_minhead", "local")
MASKS = "masks-"
_MASKS_VERSION = 1
"""Raise it when `ops.principal_masks` or `ops.context` come to find other masks."""

KEY_DIGITS = 20
SHARD_BYTES = 128 * 2**20
FLOAT16_BYTES = 2
_LATER = ("facet", "debias", "context", "normalise", "token_mean", "token_std")


class Views(Settings):
    """Photometric second views in place of the images themselves, as fixed draws."""

    draws: int = Field(ge=1, description="Views of each row; their colours are drawn once.")
    jitter: JitterConfig


class Recipe(Settings):
    """Everything that decides the values of stored features."""

    backbone: BackboneConfig = Field(description="Its layer resolved, without path and note.")
    weights: str = Field(description="sha256 of the network's parameters and buffers.")
    frame: Frame = Field(description="What images, or crops, are brought to.")
    crops: Crops | None = Field(None, description="The fixed crops; whole images if unset.")
    views: Views | None = Field(None, description="Photometric views; the rows as they are if not.")
    arithmetic: Arithmetic = "float32"
    dtype: Literal["float16"] = "float16"
    preprocessing: int = PREPROCESSING
    data: str = Field(description="sha256 over the hashes of the split's shards.")

    @property
    def key(self) -> str:
        """The entry's name: so many hexadecimal digits of the recipe's sha256."""
        described = self.model_dump(mode="json")
        for name in _LATER:
            # What was read before there was a choice keeps its entry.
            if described["backbone"][name] == BackboneConfig.model_fields[name].default:
                del described["backbone"][name]
        text = json.dumps(described, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    @property
    def showing(self) -> Showing:
        """How images are shown to the backbone."""
        return Showing(self.frame, self.crops, every=self.crops is not None)

    @property
    def draws(self) -> int:
        """Rows of each crop."""
        return self.views.draws if self.views else 1


class EntryManifest(Settings):
    """What an entry of the store says of itself."""

    format_version: Literal[1] = 1
    key: str
    says: dict[str, str] = Field(description="The recipe in plain words, and where it came from.")
    recipe: Recipe
    images: int = Field(ge=1)
    images_per_shard: int = Field(ge=1)
    dim: int = Field(ge=1, description="Channels of a token.")
    grid: int = Field(ge=1, description="Tokens along a side.")

    @property
    def rows_per_image(self) -> int:
        """Crops times draws."""
        return self.recipe.showing.views * self.recipe.draws

    @property
    def rows_per_shard(self) -> int:
        """Rows of every shard but the last."""
        return self.images_per_shard * self.rows_per_image

    @property
    def rows(self) -> int:
        """Rows of each part: number (image * crops + crop) * draws + draw is one of them."""
        return self.images * self.rows_per_image

    @property
    def num_shards(self) -> int:
        """Shards of each part."""
        return -(-self.images // self.images_per_shard)

    def shape(self, part: Part) -> tuple[int, ...]:
        """Gives the shape of one row."""
        return row_shape(part, self.dim, self.grid)

    def num_bytes(self, parts: tuple[Part, ...]) -> int:
        """Counts the bytes of all rows of some parts."""
        return self.rows * row_bytes(parts, self.dim, self.grid)

    def images_of(self, shard: int) -> tuple[int, int]:
        """Gives the numbers of a shard's first image and of the one after its last."""
        start = shard * self.images_per_shard
        return start, min(start + self.images_per_shard, self.images)


def row_shape(part: Part, dim: int, grid: int) -> tuple[int, ...]:
    """Gives the shape of a part of one row: that of a `FeatureMap` without its first axis."""
    leading = {"tokens": (dim,), "local": (9,)}.get(part, ())
    return (*leading, grid, grid)


def row_bytes(parts: tuple[Part, ...], dim: int, grid: int) -> int:
    """Counts the bytes of some parts of one row."""
    channels = sum({"tokens": dim, "local": 9}.get(part, 1) for part in parts)
    return channels * grid * grid * FLOAT16_BYTES


def parts_of(needs: Needs) -> tuple[Part, ...]:
    """Lists what must be stored for a method, in its reduced form."""
    parts: list[Part] = ["tokens"]
    if needs.attention is not None:
        parts.append("saliency_cls" if needs.attention == "cls" else "saliency_minhead")
    if needs.local_attention:
        parts.append("local")
    return tuple(parts)


def masks_part(recipe: MaskRecipe) -> Part:
    """Names the part of an entry that holds masks of its tokens: they are no part of its key."""
    text = json.dumps([_MASKS_VERSION, recipe.model_dump(mode="json")], sort_keys=True)
    return f"{MASKS}{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def needs_of(parts: tuple[Part, ...]) -> tuple[Needs, ...]:
    """Says what a backbone is asked for, so that it computes some parts.

    Returns:
        One or two passes: each reduces attention to one number a patch in one way.
    """
    kinds: list[Attention | None] = [
        kind for kind in get_args(Attention) if f"saliency_{kind}" in parts
    ]
    local = "local" in parts
    return tuple(
        Needs(attention=kind, local_attention=local and number == 0)
        for number, kind in enumerate(kinds or [None])
    )


def weights_digest(backbone: nn.Module) -> str:
    """Hashes all parameters and buffers of a network: names, types, shapes and values.

    Args:
        backbone: The network, with its weights loaded.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def make_recipe(
    config: BackboneConfig,
    backbone: Backbone,
    manifest: Manifest,
    split: str,
    *,
    frame: Frame,
    crops: Crops | None = None,
    views: Views | None = None,
    arithmetic: Arithmetic = "float32",
) -> Recipe:
    """Describes the features of a split under a frozen backbone.

    Args:
        config: The backbone's settings.
        backbone: The backbone itself, with its weights.
        manifest: Of the prepared set.
        split: Which split.
        frame: What images, or their crops, are brought to.
        crops: Fixed crops; whole images if unset.
        views: Photometric views of them, in place of the rows themselves.
        arithmetic: What the backbone computes in.

    Returns:
        The recipe.

    Raises:
        UserError: Rows would be drawn anew in each epoch, or differ in shape.
    """
    if crops is not None:
        if crops.policy == "random" or crops.flip:
            raise UserError(
                "features of random or randomly mirrored crops are not stored, since they never "
                "come twice. Fixed crops are: --set data.crops=ten --set data.flip=false"
            )
        # What decides random crops alone must not ask for another entry.
        crops = replace(crops, scale=1.0)
    if crops is None and frame.crop == "whole":
        raise UserError("whole images differ in shape: their features are not stored.")
    shards = [shard.sha256 for shard in manifest.shards_of(split)]
    layers = backbone.layers if isinstance(backbone, TimmFeatures) else (0,)
    layer = layers[0] if len(layers) == 1 else layers
    bare = config.model_copy(update={"weights": None, "note": "", "layer": layer})
    return Recipe(
        backbone=bare,
        weights=weights_digest(backbone),
        frame=frame,
        crops=crops,
        views=views,
        arithmetic=arithmetic,
        data=hashlib.sha256(json.dumps(shards).encode()).hexdigest(),
    )


def make_entry_manifest(
    recipe: Recipe,
    backbone: Backbone,
    manifest: Manifest,
    split: str,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> EntryManifest:
    """Lays out an entry and puts its recipe in words.

    Args:
        recipe: From `make_recipe`.
        backbone: The same backbone.
        manifest: Of the prepared set.
        split: Which split.
        shard_bytes: About how large a shard of tokens is; it holds whole images, at least one.

    Returns:
        What is written beside the shards.
    """
    grid = recipe.frame.size // backbone.spec.patch_size
    per_image = recipe.showing.views * recipe.draws
    image_bytes = per_image * row_bytes(("tokens",), backbone.spec.dim, grid)
    return EntryManifest(
        key=recipe.key,
        says=_in_words(recipe, manifest, split),
        recipe=recipe,
        images=manifest.splits[split].rows,
        images_per_shard=max(1, shard_bytes // image_bytes),
        dim=backbone.spec.dim,
        grid=grid,
    )


def _in_words(recipe: Recipe, manifest: Manifest, split: str) -> dict[str, str]:
    backbone, crops, views, size = recipe.backbone, recipe.crops, recipe.views, recipe.frame.size
    shown = f"whole images at {size} px ({recipe.frame.crop}), {recipe.frame.filter}"
    if crops is not None:
        recoded = f", through JPEG at {crops.jpeg}" if crops.jpeg else ""
        ratios = ", ".join(f"{ratio:g}" for ratio in crops.ratios)
        shown = f"{crops.policy} crops of {ratios} of each side at {size} px, {crops.filter}"
        shown += recoded
    viewed = "none: the rows as they are"
    if views is not None:
        viewed = f"{views.draws} fixed photometric draws ({_jitter(views.jitter)})"
    return {
        "data": f"{manifest.name}, split {split}, {manifest.splits[split].rows} images, "
        f"shards {recipe.data[:12]}",
        "backbone": f"{backbone.name}, weights {recipe.weights[:12]}",
        "layer": f"{backbone.layer}, {backbone.facet}",
        "position": f"{backbone.debias} directions taken out",
        "tokens": backbone.normalise,
        "context": "none" if backbone.context is None else f"averaged at {backbone.context:g}",
        "resolution": f"{size} x {size} px",
        "crops": shown,
        "views": viewed,
        "numbers": f"computed in {recipe.arithmetic}, stored as {recipe.dtype}",
        "preprocessing": f"version {recipe.preprocessing}",
    }


def _jitter(jitter: JitterConfig) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in jitter.model_dump().items())
