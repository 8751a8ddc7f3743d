"""Frozen networks that turn images into patch tokens: any timm model, or the weight-free textons.

Between the reader's `Images` and a method's `Batch`. Weights come from timm's hub and cache or
from a safetensors file, loaded strictly; nothing here ever falls back to random weights.
"""

import difflib
import importlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from usseg_ray.core.config import BackboneConfig, DataConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import FeatureMap, FeatureSpec, Needs
from usseg_ray.features.textons import Textons
from usseg_ray.ops.attention import cls_score, local_weights, minhead_score

PLAIN = Needs()

HUB_TIMEOUT_S = 5.0

TEXTONS = "textons"

_ANY_SIZE = ("vision_transformer", "deit", "eva")

"""timm's modules of models that resize their position embedding when asked to."""


class TimmFeatures(nn.Module):
    """A timm model read at one layer.

    Args:
        config: Which model, layer, weights and normalisation.
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
        last = len(stages) - 1
        self.layer = last if config.layer is None else config.layer
        if not 0 <= self.layer <= last:
            raise UserError(
                f"backbone.layer = {config.layer}: {config.name} has layers 0 to {last}."
            )
        cfg = self.model.pretrained_cfg
        self.mean = nn.Buffer(torch.tensor(config.mean or cfg["mean"]).view(3, 1, 1))
        self.std = nn.Buffer(torch.tensor(config.std or cfg["std"]).view(3, 1, 1))
        self.spec = FeatureSpec(
            dim=stages[self.layer]["num_chs"],
            patch_size=stages[self.layer]["reduction"],
            has_attention=_attention_module(self.model) is not None,
        )

    def normalise(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Brings pixels in [0, 1] to the range that the network was trained on."""
        return (pixels - self.mean) / self.std

    def forward(self, normalised: Float[Tensor, "B 3 H W"], needs: Needs = PLAIN) -> FeatureMap:
        """Computes patch tokens; a ViT's after its final norm, whichever block is read.

        Args:
            normalised: (B, 3, H, W) float32, from `normalise`.
            needs: Which reductions of last-block attention are wanted.

        Returns:
            The feature map; `saliency` and `local` only where they are wanted.
        """
        with _recorded_attention(self.model, needs) as recorded:
            (tokens,) = self._intermediates(normalised)
        tokens = tokens.float()
        height, width = tokens.shape[-2:]
        saliency, local = (recorded.pop(name, None) for name in ("saliency", "local"))
        return FeatureMap(
            tokens,
            None if saliency is None else saliency.view(-1, height, width),
            None if local is None else local_weights(local, height, width),
        )

    def cls_tokens(self, normalised: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Computes the CLS token of every image, at the layer that patch tokens are read at.

        Args:
            normalised: (B, 3, H, W) float32, from `normalise`.

        Returns:
            (B, D) float32.
        """
        ((_, prefix),) = self._intermediates(normalised, return_prefix_tokens=True)
        cls: Tensor = prefix[:, 0].float()
        return cls

    def _intermediates(self, normalised: Tensor, **options: bool) -> Any:  # noqa: ANN401
        return self.model.forward_intermediates(
            normalised,
            indices=[self.layer],
            norm=_last_attention(self.model) is not None,
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
        self.spec = FeatureSpec(self.bank.dim, self.bank.patch_size, has_attention=False)

    def normalise(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Leaves pixels in [0, 1] as they are, the range that the filters expect."""
        return pixels

    def forward(
        self,
        normalised: Float[Tensor, "B 3 H W"],
        needs: Needs = PLAIN,  # noqa: ARG002
    ) -> FeatureMap:
        """Computes texton tokens of (B, 3, H, W) pixels in [0, 1]; there is no attention."""
        return FeatureMap(self.bank(normalised))

    def cls_tokens(self, normalised: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Refuses: a filter bank has no CLS token."""
        raise TypeError(f"textons have no CLS token for {len(normalised)} images")


Backbone = TimmFeatures | TextonFeatures


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
    bare = TextonFeatures(config) if config.name == TEXTONS else _bare(config)
    check_sizes(data, bare.spec.patch_size)
    grid, eval_grid = (side // bare.spec.patch_size for side in (data.train_size, data.eval_size))
    return replace(bare.spec, grid=grid, eval_grid=eval_grid)


def _bare(config: BackboneConfig) -> TimmFeatures:
    with torch.device("meta"):
        return TimmFeatures(config, pretrained=False)


def check_sizes(data: DataConfig, patch_size: int) -> None:
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


def build_backbone(config: BackboneConfig) -> Backbone:
    """Builds a frozen backbone in evaluation mode.

    Args:
        config: Which one, and where its weights are.

    Returns:
        The module; its parameters take no gradient.

    Raises:
        UserError: The model, layer or weights do not exist, do not fit or cannot be reached.
    """
    backbone: Backbone
    if config.name == TEXTONS:
        backbone = TextonFeatures(config)
    else:
        check_weights(config)
        backbone = TimmFeatures(config)
    return backbone.requires_grad_(False).eval()


def check_weights(config: BackboneConfig) -> None:
    """Makes sure within seconds that a backbone's weights can be had.

    Args:
        config: The backbone.

    Raises:
        UserError: They cannot; names the three ways on.
    """
    if config.name == TEXTONS and config.weights is not None:
        raise UserError(
            f"backbone.weights = {config.weights}: textons have no weights. Name the network "
            "that they are of: --set backbone.name=..."
        )
    if config.name == TEXTONS:
        return
    if config.weights is not None:
        if not Path(config.weights).is_file():
            raise UserError(f"backbone.weights = {config.weights}: no such file.")
        return
    if not timm.is_model(config.name.split(".")[0]):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        raise UserError(f"backbone.name = {config.name!r} is no timm model; near it: {near}.")
    try:
        cfg = timm.get_pretrained_cfg(config.name)
    except RuntimeError:  # an unknown tag
        cfg = None
    if cfg is None or not cfg.has_weights:
        tags = timm.list_pretrained(f"{config.name.split('.')[0]}*")[:4]
        raise UserError(
            f"backbone.name = {config.name!r} has no published weights; timm has {tags}. "
            "Or give a file: --set backbone.weights=FILE.safetensors"
        )
    if cfg.hf_hub_id is not None and not _cached(cfg.hf_hub_id):
        _reach(config.name, huggingface_hub.hf_hub_url(cfg.hf_hub_id, "config.json"))


def _cached(repository: str) -> bool:
    names = ("model.safetensors", "pytorch_model.bin")
    return any(
        isinstance(huggingface_hub.try_to_load_from_cache(repository, n), str) for n in names
    )


def _reach(name: str, url: str) -> None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S).close()
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise UserError(
            f"The weights of {name} are not in the local cache and the hub cannot be reached "
            f"({getattr(error, 'reason', error)}). Three ways on: connect and run again (they are "
            "cached once); --set backbone.weights=FILE.safetensors; --set backbone.name=textons"
        ) from None


def _create(config: BackboneConfig, *, pretrained: bool) -> Any:  # noqa: ANN401
    args: dict[str, Any] = {"pretrained": pretrained, **config.timm_args}
    if timm.models.is_model_in_modules(config.name.split(".")[0], _ANY_SIZE):
        args.setdefault("dynamic_img_size", True)
    try:
        model = timm.create_model(config.name, **args)
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


def _last_attention(model: nn.Module) -> Any | None:  # noqa: ANN401
    """Finds a transformer's last attention, of whatever kind."""
    blocks = getattr(model, "blocks", None)
    attention = getattr(blocks[-1], "attn", None) if blocks is not None else None
    return attention if hasattr(attention, "qkv") else None


def _attention_module(model: nn.Module) -> Any | None:  # noqa: ANN401
    """Finds the last attention where `_recorded_attention` computes it as the model does.

    That is plain attention with a CLS token: rotary positions or relative biases would be missed.
    """
    attention = _last_attention(model)
    plain = isinstance(attention, timm.layers.Attention) and getattr(model, "rope", None) is None
    return attention if plain and getattr(model, "cls_token", None) is not None else None


@contextmanager
def _recorded_attention(model: nn.Module, needs: Needs) -> Iterator[dict[str, Tensor]]:
    """Reduces the last block's attention of the one forward pass inside the block.

    Yields:
        A mapping that receives `saliency` (B, N) and `local` (B, N, N), the mean over heads of the
        logits between patches, where they are wanted.
    """
    recorded: dict[str, Tensor] = {}
    module = _attention_module(model)
    if module is None or not (needs.attention or needs.local_attention):
        yield recorded
        return
    prefix: int = getattr(model, "num_prefix_tokens", 1)

    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        size, tokens, _dim = x.shape
        qkv = module.qkv(x).reshape(size, tokens, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key = module.q_norm(qkv[0]), module.k_norm(qkv[1])
        with torch.autocast(x.device.type, enabled=False):
            logits = query.float() * module.scale @ key.float().transpose(-2, -1)
        if needs.attention:
            kept = [0, *range(prefix, tokens)]
            weights = logits.softmax(-1)[:, :, kept][:, :, :, kept]
            reduce = cls_score if needs.attention == "cls" else minhead_score
            recorded["saliency"] = reduce(weights)
        if needs.local_attention:
            recorded["local"] = logits[:, :, prefix:, prefix:].mean(1)

    handle = module.register_forward_pre_hook(record)
    try:
        yield recorded
    finally:
        handle.remove()


class _Unopened:
    """Stands for a module until something of it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the module has)
        return getattr(importlib.import_module(self._name), name)


timm: Any = _Unopened("timm")

huggingface_hub: Any = _Unopened("huggingface_hub")
