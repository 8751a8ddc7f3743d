"""Frozen networks that turn images into patch tokens: any timm model, or the weight-free textons.

Between the reader's `Images` and a method's `Batch`. Weights come from timm's hub and cache or
from a safetensors file, loaded strictly; nothing here ever falls back to random weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from usseg_ray.core.config import BackboneConfig, DataConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import FeatureMap, FeatureSpec, Needs
from usseg_ray.features.block import ReadBlock
from usseg_ray.features.normalisation import TokenNormalisation, check_measured
from usseg_ray.features.projections import (
    PassRecord,
    facet_dim,
    last_attention,
    readable_attention,
    recorded,
)
from usseg_ray.features.textons import TEXTONS, Textons
from usseg_ray.features.weights import check_weights, missing_weights
from usseg_ray.features.zoo import timm
from usseg_ray.ops.attention import local_weights
from usseg_ray.ops.context import averaged

PLAIN = Needs()

_ANY_SIZE = ("vision_transformer", "deit", "eva")

"""timm's modules of models that resize their position embedding when asked to."""


class TimmFeatures(nn.Module):
    """A timm model read at one layer, or at several whose tokens lie side by side.

    Args:
        config: Which model, layers, facet, weights and normalisation.
        pretrained: Whether to load weights; without them only shapes are meaningful.

    Raises:
        UserError: The model, the layer or the weights do not exist or do not fit.
    """

    def __init__(self, config: BackboneConfig, *, pretrained: bool = True) -> None:
        super().__init__()
        self.model = _create(config, pretrained=pretrained and config.weights is None)
        if pretrained and config.weights is not None:
            _load_strictly(self.model, config)
        stages = self.model.feature_info
        stages = getattr(stages, "info", stages)
        self.layers = _layers(config, len(stages))
        cfg = self.model.pretrained_cfg
        self.mean = nn.Buffer(torch.tensor(config.mean or cfg["mean"]).view(3, 1, 1))
        self.std = nn.Buffer(torch.tensor(config.std or cfg["std"]).view(3, 1, 1))
        self._facet, self._debias, self._context = config.facet, config.debias, config.context
        self._bases: dict[tuple[int, int], Tensor] = {}
        reductions = {stages[layer]["reduction"] for layer in self.layers}
        if len(reductions) > 1:
            raise UserError(f"backbone.layer = {config.layer}: these layers differ in patch size.")
        self.spec = FeatureSpec(
            dim=sum(self._dim(stages[layer]["num_chs"]) for layer in self.layers),
            patch_size=reductions.pop(),
            has_attention=readable_attention(self.model) is not None,
            block=partial(_read_block, config) if self._ends_in_a_block(config) else None,
        )
        self.token_scale = TokenNormalisation(config, self.spec.dim)
        if not 0 <= config.debias < self.spec.dim:
            raise UserError(f"backbone.debias = {config.debias}: 0 to {self.spec.dim - 1} fit.")

    def _ends_in_a_block(self, config: BackboneConfig) -> bool:
        """Says whether tokens are what one block gives, normed, and nothing else was made of it."""
        plain = config.facet == "token" and not config.debias and config.context is None
        plain = plain and config.normalise == "raw"
        return plain and len(self.layers) == 1 and readable_attention(self.model) is not None

    def _dim(self, channels: int) -> int:
        if self._facet == "token":
            return channels
        dim = facet_dim(self.model)
        if dim is None:
            raise UserError(
                f"backbone.facet = {self._facet}: this model has no attention that can be read; "
                "--set backbone.facet=token reads any."
            )
        return dim

    def normalise(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Brings pixels in [0, 1] to the range that the network was trained on."""
        return (pixels - self.mean) / self.std

    def forward(self, normalised: Float[Tensor, "B 3 H W"], needs: Needs = PLAIN) -> FeatureMap:
        """Computes patch tokens; a ViT's after its final norm, whichever block is read.

        Args:
            normalised: (B, 3, H, W) float32, from `normalise`.
            needs: What is wanted beside tokens.

        Returns:
            The feature map; all but tokens only where it is wanted.
        """
        tokens, found = self._read(normalised, needs)
        if self._debias:
            tokens = self._without_position(tokens, *normalised.shape[-2:])
        height, width = tokens.shape[-2:]
        return FeatureMap(
            _in_context(self.token_scale(tokens), self._context),
            None if found.saliency is None else found.saliency.view(-1, height, width),
            None if found.local is None else local_weights(found.local, height, width),
            found.block_input,
        )

    def _read(
        self, normalised: Float[Tensor, "B 3 H W"], needs: Needs
    ) -> tuple[Float[Tensor, "B D h w"], PassRecord]:
        with recorded(self.model, needs, self._facet, self.layers) as found:
            maps = [tokens.float() for tokens in self._intermediates(normalised)]
        if self._facet != "token":
            grid = maps[0].shape[-2:]
            maps = [found.facets[layer].unflatten(2, grid) for layer in self.layers]
        tokens = maps[0] if len(maps) == 1 else torch.cat([normalize(one) for one in maps], 1)
        return tokens, found

    def _without_position(
        self, tokens: Float[Tensor, "B D h w"], height: int, width: int
    ) -> Float[Tensor, "B D h w"]:
        """Projects unit tokens off the directions in which a black image's differ, by position.

        Reference: INSID3 (CVPR 2026), positional debiasing.
        """
        basis, unit = self._basis(height, width), normalize(tokens)
        shared = torch.einsum("ds,bdhw->bshw", basis, unit)
        return normalize(unit - torch.einsum("ds,bshw->bdhw", basis, shared))

    def _basis(self, height: int, width: int) -> Float[Tensor, "D s"]:
        """Finds the `debias` main directions of a black image's unit tokens, once a size."""
        if (height, width) not in self._bases:
            black = self.normalise(torch.zeros(1, 3, height, width, device=self.mean.device))
            tokens = normalize(self._read(black, PLAIN)[0])[0].flatten(1).T
            centred = (tokens - tokens.mean(0)).double().cpu()
            directions = torch.linalg.svd(centred, full_matrices=False).Vh[: self._debias].T
            self._bases[height, width] = directions.float().to(self.mean.device)
        return self._bases[height, width]

    def cls_tokens(self, normalised: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Computes the CLS token of every image, at the last layer that patch tokens are read at.

        Args:
            normalised: (B, 3, H, W) float32, from `normalise`.

        Returns:
            (B, D) float32.
        """
        *_, (_, prefix) = self._intermediates(normalised, return_prefix_tokens=True)
        cls: Tensor = prefix[:, 0].float()
        return cls

    def _intermediates(self, normalised: Tensor, **options: bool) -> Any:  # noqa: ANN401
        return self.model.forward_intermediates(
            normalised,
            indices=list(self.layers),
            norm=last_attention(self.model) is not None,
            output_fmt="NCHW",
            intermediates_only=True,
            stop_early=True,
            **options,
        )


class TextonFeatures(nn.Module):
    """The textons filter bank behind the same interface as a network."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.bank = Textons(
            patch_size=config.patch_size,
            colour_weight=config.colour_weight,
            position_weight=config.position_weight,
        )
        self._context = config.context
        self.spec = FeatureSpec(self.bank.dim, self.bank.patch_size, has_attention=False)
        self.token_scale = TokenNormalisation(config, self.bank.dim)

    def normalise(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Leaves pixels in [0, 1] as they are, the range that the filters expect."""
        return pixels

    def forward(
        self,
        normalised: Float[Tensor, "B 3 H W"],
        needs: Needs = PLAIN,  # noqa: ARG002
    ) -> FeatureMap:
        """Computes texton tokens of (B, 3, H, W) pixels in [0, 1]; there is no attention."""
        return FeatureMap(_in_context(self.token_scale(self.bank(normalised)), self._context))

    def cls_tokens(self, normalised: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Refuses: a filter bank has no CLS token."""
        raise TypeError(f"textons have no CLS token for {len(normalised)} images")


def _in_context(tokens: Float[Tensor, "B D h w"], reach: float | None) -> Float[Tensor, "B D h w"]:
    return tokens if reach is None else averaged(tokens, reach)


Backbone = TimmFeatures | TextonFeatures

_kept: ContextVar[dict[str, Backbone] | None] = ContextVar("kept", default=None)


def feature_spec(config: BackboneConfig, data: DataConfig) -> FeatureSpec:
    """Describes a backbone's features of a data set's crops and frames; loads no weights.

    Args:
        config: The backbone.
        data: Sizes of crops and frames.

    Returns:
        The description.

    Raises:
        UserError: The model or the layer does not exist, or patches do not tile the images.
    """
    spec = _bare_spec(config.model_dump_json())
    check_image_sizes(data, spec.patch_size)
    grid, eval_grid = (side // spec.patch_size for side in (data.train_size, data.eval_size))
    return replace(spec, grid=grid, eval_grid=eval_grid)


@lru_cache(maxsize=32)
def _bare_spec(described: str) -> FeatureSpec:
    """Describes the features of a backbone, whose settings are given as JSON, of no size."""
    config = BackboneConfig.model_validate_json(described)
    if config.name == TEXTONS:
        return TextonFeatures(config).spec
    with torch.device("meta"):
        return TimmFeatures(config, pretrained=False).spec


def check_image_sizes(data: DataConfig, patch_size: int) -> None:
    """Refuses image sizes that patches do not tile.

    Raises:
        UserError: With the nearest size that fits.
    """
    for key in ("train_size", "eval_size"):
        size = getattr(data, key)
        if size % patch_size:
            near = max(patch_size, round(size / patch_size) * patch_size)
            raise UserError(
                f"data.{key} = {size} is no multiple of the backbone's patch of {patch_size} "
                f"pixels; --set data.{key}={near} fits."
            )


@contextmanager
def backbones_kept() -> Iterator[None]:
    """Has each backbone built once while the block lasts: who asks again gets the same module.

    For what uses them one after the other, as a dry run does.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def build_backbone(config: BackboneConfig) -> Backbone:
    """Builds a frozen backbone in evaluation mode, or gives one that is kept.

    Args:
        config: Which one, and where its weights are.

    Returns:
        The module; its parameters take no gradient.

    Raises:
        UserError: The model, layer or weights do not exist, do not fit or cannot be reached.
    """
    kept, described = _kept.get(), config.model_dump_json()
    if kept is None:
        return _built(config)
    if described not in kept:
        kept[described] = _built(config)
    return kept[described]


def _built(config: BackboneConfig) -> Backbone:
    check_measured(config)
    backbone: Backbone
    if config.name == TEXTONS:
        backbone = TextonFeatures(config)
    else:
        check_weights(config)
        backbone = TimmFeatures(config)
    return backbone.requires_grad_(False).eval()


def _read_block(config: BackboneConfig) -> ReadBlock:
    """Copies the block that tokens are read of, and the norm behind it, with their weights."""
    network = build_backbone(config)
    if not isinstance(network, TimmFeatures):
        raise TypeError(f"{config.name} has no block")
    return ReadBlock(network.model, network.layers[0])


def _layers(config: BackboneConfig, count: int) -> tuple[int, ...]:
    """Lists the layers that are read, the last one where none is named.

    Raises:
        UserError: There is no such layer, or one twice, or not in ascending order.
    """
    given = config.layer
    layers = (count - 1,) if given is None else (given,) if isinstance(given, int) else given
    if not layers or not all(0 <= layer < count for layer in layers):
        raise UserError(f"backbone.layer = {given}: {config.name} has layers 0 to {count - 1}.")
    if list(layers) != sorted(set(layers)):
        raise UserError(f"backbone.layer = {given}: give each layer once, in ascending order.")
    return layers


def _create(config: BackboneConfig, *, pretrained: bool) -> Any:  # noqa: ANN401
    args: dict[str, Any] = {"pretrained": pretrained, **config.timm_args}
    if timm.models.is_model_in_modules(config.name.split(".")[0], _ANY_SIZE):
        args.setdefault("dynamic_img_size", True)
    try:
        model = timm.create_model(config.name, **args)
    except OSError as error:
        raise missing_weights(config, error) from None
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"backbone.name = {config.name!r} with {args}: {error}") from None
    if not hasattr(model, "forward_intermediates"):
        raise UserError(
            f"backbone.name = {config.name!r}: timm gives no intermediate features of it."
        )
    return model


def _load_strictly(model: nn.Module, config: BackboneConfig) -> None:
    path = Path(str(config.weights))
    if path.suffix != ".safetensors":
        raise UserError(
            f"backbone.weights = {path}: only .safetensors files are read (no pickles)."
        )
    try:
        model.load_state_dict(safetensors.torch.load_file(path), strict=True)
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"backbone.weights = {path} does not fit {config.name}: {reason}. "
            "Arguments that the file needs go to backbone.timm_args, e.g. {num_classes: 1001}."
        ) from None
