"""Frozen networks that turn images into patch tokens: any timm model, or the weight-free textons.

Between the reader's `Images` and a method's `Batch`. Weights come from timm's hub and cache or
from a safetensors file, loaded strictly; nothing here ever falls back to random weights.
"""

import difflib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors.torch
import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from usseg_ray.batch import Attention, Batch, FeatureMap, FeatureSpec, Images, Needs
from usseg_ray.config import BackboneConfig, UserError
from usseg_ray.ops.attention import cls_score, minhead_score
from usseg_ray.textons import Textons

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

    def forward(
        self, pixels: Float[Tensor, "B 3 H W"], attention: Attention | None = None
    ) -> FeatureMap:
        """Computes patch tokens; a ViT's after its final norm, whichever block is read.

        Args:
            pixels: (B, 3, H, W) float32 in [0, 1], RGB.
            attention: How to reduce last-block attention, if it is wanted.

        Returns:
            The feature map; `saliency` only where `attention` is given.
        """
        x = (pixels - self.mean) / self.std
        with _recorded_attention(self.model, attention) as recorded:
            (tokens,) = self.model.forward_intermediates(
                x,
                indices=[self.layer],
                norm=_last_attention(self.model) is not None,
                output_fmt="NCHW",
                intermediates_only=True,
                stop_early=True,
            )
        tokens = tokens.float()
        saliency = recorded[0].view(-1, *tokens.shape[-2:]) if recorded else None
        return FeatureMap(tokens, saliency)


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

    def forward(
        self,
        pixels: Float[Tensor, "B 3 H W"],
        attention: Attention | None = None,  # noqa: ARG002
    ) -> FeatureMap:
        """Computes texton tokens of (B, 3, H, W) pixels in [0, 1]; there is no attention."""
        return FeatureMap(self.bank(pixels))


Backbone = TimmFeatures | TextonFeatures


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


def _attention_module(model: nn.Module) -> timm.layers.Attention | None:
    """Finds the last attention where `_recorded_attention` computes it as the model does.

    That is plain attention with a CLS token: rotary positions or relative biases would be missed.
    """
    attention = _last_attention(model)
    plain = isinstance(attention, timm.layers.Attention) and getattr(model, "rope", None) is None
    return attention if plain and getattr(model, "cls_token", None) is not None else None


@contextmanager
def _recorded_attention(model: nn.Module, wanted: Attention | None) -> Iterator[list[Tensor]]:
    """Collects the reduced last-block attention of the forward passes inside the block.

    Yields:
        A list that receives (B, N) scores; empty where none are wanted.
    """
    recorded: list[Tensor] = []
    module = _attention_module(model)
    if wanted is None or module is None:
        yield recorded
        return
    prefix: int = getattr(model, "num_prefix_tokens", 1)

    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        size, tokens, _dim = x.shape
        qkv = module.qkv(x).reshape(size, tokens, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key = module.q_norm(qkv[0]), module.k_norm(qkv[1])
        with torch.autocast(x.device.type, enabled=False):
            weights = (query.float() * module.scale @ key.float().transpose(-2, -1)).softmax(-1)
        kept = [0, *range(prefix, tokens)]
        weights = weights[:, :, kept][:, :, :, kept]
        recorded.append((cls_score if wanted == "cls" else minhead_score)(weights))

    handle = module.register_forward_pre_hook(record)
    try:
        yield recorded
    finally:
        handle.remove()


class Featuriser:
    """Turns the reader's images into a method's batches on one device.

    Args:
        backbone: The frozen backbone.
        needs: What the method asks for.
        device: Where to compute.
        autocast: Whether the backbone computes in bfloat16.
    """

    def __init__(
        self, backbone: Backbone, needs: Needs, device: torch.device, *, autocast: bool
    ) -> None:
        self.backbone = backbone.to(device)
        self.needs = needs
        self.device = device
        self.autocast = autocast

    @torch.no_grad()
    def __call__(self, images: Images) -> Batch:
        """Computes a batch; methods that read pixels only get an empty feature map."""
        pixels = images.pixels.to(self.device, non_blocking=True).float() / 255
        if not self.needs.features:
            return Batch(images.ids, pixels, FeatureMap(pixels.new_zeros(len(pixels), 0, 1, 1)))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            features = self.backbone(pixels, self.needs.attention)
        return Batch(images.ids, pixels, features)
