"""Inside a ViT's attention: queries, keys and values, and what their products say of patches.

Beside `backbones`, which hands the maps out. The fused kernels give none of it away, so it is
computed again from a layer's input, in the way of timm's plain attention (DINO, DINOv2) and of its
rotary one (EVA, EUPE, DINOv3), whose positions turn queries and keys before their product.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from usseg_ray.core.types import BlockInput, Needs
from usseg_ray.features.zoo import timm
from usseg_ray.ops.attention import cls_score, minhead_score

Facet = Literal["token", "query", "key", "value"]
FACETS: tuple[Facet, ...] = ("query", "key", "value")

Heads = Float[Tensor, "B H N d"]


@dataclass
class PassRecord:
    """What one forward pass left.

    Attributes:
        saliency: (B, N), where it is wanted; see `types.FeatureMap`.
        local: (B, N, N), the mean over heads of the logits between patches, where it is wanted.
        facets: Layer -> (B, D, N) of its patches, heads side by side, where one is wanted.
        block_input: What went into the one layer that is read, where it is wanted.
    """

    saliency: Float[Tensor, "B N"] | None = None
    local: Float[Tensor, "B N N"] | None = None
    facets: dict[int, Float[Tensor, "B D N"]] = field(default_factory=dict)
    block_input: BlockInput | None = None


def last_attention(model: nn.Module) -> Any | None:  # noqa: ANN401
    """Finds a transformer's last attention, of whatever kind."""
    blocks = getattr(model, "blocks", None)
    return _attention_of(blocks[-1]) if blocks is not None else None


def readable_attention(model: nn.Module) -> Any | None:  # noqa: ANN401
    """Finds the last attention where it is known how the model computes it from CLS and patches.

    That is plain attention without rotary positions or biases, and EVA's with them.
    """
    attention = last_attention(model)
    rotary = isinstance(attention, timm.models.eva.EvaAttention)
    plain = isinstance(attention, timm.layers.Attention) and getattr(model, "rope", None) is None
    cls = getattr(model, "cls_token", None) is not None
    return attention if cls and (plain or rotary) else None


def facet_dim(model: nn.Module) -> int | None:
    """Counts the channels of a facet, all heads together; `None` where none can be read."""
    attention = readable_attention(model)
    return None if attention is None else attention.num_heads * attention.head_dim


@contextmanager
def recorded(
    model: nn.Module, needs: Needs, facet: Facet, layers: Sequence[int]
) -> Iterator[PassRecord]:
    """Records the one forward pass inside the block.

    Args:
        model: A timm model.
        needs: What is wanted beside tokens.
        facet: What is wanted of each of `layers`; nothing where it is the token.
        layers: Numbers of blocks.
    """
    found = PassRecord()
    last = readable_attention(model)
    prefix: int = getattr(model, "num_prefix_tokens", 1)
    with ExitStack() as hooks:
        if last is not None and (needs.attention or needs.local_attention):
            hooks.enter_context(_hook(last, lambda *seen: _reduce(found, needs, prefix, *seen)))
        for layer in layers if facet != "token" else ():
            hooks.enter_context(_keep(found, model, layer, facet, prefix))
        if last is not None and needs.block_input:
            hooks.enter_context(_keep_input(found, model, layers[-1]))
        yield found


@contextmanager
def _keep(
    found: PassRecord,
    model: Any,  # noqa: ANN401
    layer: int,
    facet: Facet,
    prefix: int,
) -> Iterator[None]:
    def keep(module: Any, x: Tensor, _rope: Tensor | None) -> None:  # noqa: ANN401
        heads = _projected(module, x)[FACETS.index(facet)]
        found.facets[layer] = heads[:, :, prefix:].transpose(2, 3).flatten(1, 2).float()

    with _hook(_attention_of(model.blocks[layer]), keep):
        yield


@contextmanager
def _keep_input(found: PassRecord, model: Any, layer: int) -> Iterator[None]:  # noqa: ANN401
    def keep(_: nn.Module, x: Tensor, rope: Tensor | None) -> None:
        found.block_input = BlockInput(x.float(), None if rope is None else rope.float())

    with _hook(model.blocks[layer], keep):
        yield


@contextmanager
def _hook(module: Any, look: Any) -> Iterator[None]:  # noqa: ANN401
    def before(attention: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        look(attention, inputs[0], options.get("rope"))

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _attention_of(block: nn.Module) -> Any | None:  # noqa: ANN401
    attention = getattr(block, "attn", None)
    return attention if hasattr(attention, "qkv") else None


def _projected(module: Any, x: Float[Tensor, "B N D"]) -> tuple[Heads, Heads, Heads]:  # noqa: ANN401
    """Computes queries, keys and values of all heads, before any norm or rotation."""
    if module.qkv is None:
        parts = [project(x) for project in (module.q_proj, module.k_proj, module.v_proj)]
    elif getattr(module, "q_bias", None) is None:
        parts = list(module.qkv(x).chunk(3, -1))
    else:
        bias = torch.cat((module.q_bias, module.k_bias, module.v_bias))
        parts = list(linear(x, module.qkv.weight, bias).chunk(3, -1))
    query, key, value = (
        part.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for part in parts
    )
    return query, key, value


def _logits(module: Any, x: Float[Tensor, "B N D"], rope: Tensor | None) -> Tensor:  # noqa: ANN401
    query, key, _ = _projected(module, x)
    query, key = module.q_norm(query), module.k_norm(key)
    if rope is not None:
        query, key = (_rotated(module, part, rope) for part in (query, key))
    with torch.autocast(x.device.type, enabled=False):
        logits: Tensor = query.float() * module.scale @ key.float().transpose(-2, -1)
    return logits


def _rotated(module: Any, part: Heads, rope: Tensor) -> Heads:  # noqa: ANN401
    """Turns patches by their positions; prefix tokens have none."""
    prefix, half = module.num_prefix_tokens, getattr(module, "rotate_half", False)
    patches = timm.layers.apply_rot_embed_cat(part[:, :, prefix:], rope, half=half)
    turned: Tensor = torch.cat([part[:, :, :prefix], patches], 2).type_as(part)
    return turned


def _reduce(
    found: PassRecord,
    needs: Needs,
    prefix: int,
    module: Any,  # noqa: ANN401
    x: Float[Tensor, "B N D"],
    rope: Tensor | None,
) -> None:
    logits = _logits(module, x, rope)
    if needs.attention:
        kept = [0, *range(prefix, x.shape[1])]
        weights = logits.softmax(-1)[:, :, kept][:, :, :, kept]
        reduce = cls_score if needs.attention == "cls" else minhead_score
        found.saliency = reduce(weights)
    if needs.local_attention:
        found.local = logits[:, :, prefix:, prefix:].mean(1)
