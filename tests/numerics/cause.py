"""What the tests of CAUSE share: the layout of its arrays, and its weights by their
official names."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.numerics.comparing import Vectors
from usseg_ray.methods.parts.clusterbook import WindowSample
from usseg_ray.methods.parts.concept_head import ConceptHead, ConceptNetwork
from usseg_ray.methods.parts.heads import SegmentationHead
from usseg_ray.ops.concept_bank import ConceptBank

# Our name of each official layer; the head inside the decoder has a prefix of its own.
HEAD_LAYERS = {"f1": "linear", "f2.0": "hidden", "f2.2": "output"}
DECODER_LAYERS = {
    "self_attn.out_proj": "self_attention.out",
    "multihead_attn.out_proj": "cross_attention.out",
    "linear1": "widen",
    "linear2": "narrow",
    "norm1": "norms.0",
    "norm2": "norms.1",
    "norm3": "norms.2",
}
PACKED = {"self_attn": "self_attention", "multihead_attn": "cross_attention"}


def tensor(array: Any) -> Tensor:
    return torch.as_tensor(array).clone()


def as_map(rows: Any) -> Tensor:
    """Turns (B, N, C) into the square (B, C, h, w)."""
    rows = tensor(rows)
    side = int(rows.shape[1] ** 0.5)
    maps: Tensor = rows.mT.reshape(len(rows), -1, side, side)
    return maps


def as_rows(maps: Tensor) -> Tensor:
    return maps.flatten(2).mT


def as_windows(order: Any, images: int) -> WindowSample:
    order = tensor(order)
    side = int((len(order) // images) ** 0.5)
    return WindowSample(order.view(images, side, side), 4)


def official_state(network: ConceptNetwork) -> dict[str, Tensor]:
    """Names the network's parameters as the official code does: `head.f1.weight` and so on."""
    head, state = network.head, dict[str, Tensor]()
    for leaf, parameter in network.projection.named_parameters():
        state[f"projection_head.f.{leaf}"] = parameter
    if isinstance(head, SegmentationHead):
        return state | segmentation_state(head, "head.")
    state["head.query_pos"] = head.position
    for official, ours in DECODER_LAYERS.items():
        for leaf, parameter in head.get_submodule(ours).named_parameters():
            state[f"head.tr.{official}.{leaf}"] = parameter
    for official, ours in PACKED.items():
        layers = [head.get_submodule(f"{ours}.{part}") for part in ("query", "key", "value")]
        for leaf in ("weight", "bias"):
            packed = tuple(layer.get_parameter(leaf) for layer in layers)
            state[f"head.tr.{official}.in_proj_{leaf}"] = torch.cat(packed)
    return state | segmentation_state(head.head, "head.tr.")


def segmentation_state(head: SegmentationHead, prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}{official}.{leaf}": parameter
        for official, ours in HEAD_LAYERS.items()
        for leaf, parameter in head.get_submodule(ours).named_parameters()
    }


@torch.no_grad()
def load_official(network: ConceptNetwork, weights: Vectors) -> None:
    """Copies weights `head.f1.weight` ..., a projection only if it is there."""
    for name, parameter in official_state(network).items():
        array = weights.get(name)
        if array is None:
            assert name.startswith("projection_head")
        elif "in_proj" in name:
            attention = network.head.get_submodule(PACKED[name.split(".")[2]])
            for part, third in zip(("query", "key", "value"), tensor(array).chunk(3), strict=True):
                leaf = name.rsplit("_", 1)[1]
                attention.get_submodule(part).get_parameter(leaf).copy_(third)
        else:
            parameter.copy_(tensor(array))


def make_network(vectors: Vectors, prefix: str = "", head: str = "head") -> ConceptNetwork:
    """Builds a network of the vectors' sizes with their weights.

    Args:
        vectors: Arrays such as `init/head/f1.weight`.
        prefix: Their folder, for example `init/`.
        head: Which of them is the head.
    """
    weights = {
        key.removeprefix(prefix).replace(f"{head}/", "head.", 1).replace("/", "."): array
        for key, array in vectors.items()
    }
    plain = "head.f1.weight" in weights
    code_dim, dim = weights["head.f1.weight" if plain else "head.tr.f1.weight"].shape[:2]
    random = torch.Generator()
    made = (
        SegmentationHead(dim, code_dim, random)
        if plain
        else ConceptHead(dim, code_dim, len(weights["head.query_pos"]), 2048, random)
    )
    projection_dim = len(weights.get("projection_head.f.bias", [0]))
    network = ConceptNetwork(made, code_dim, projection_dim, random)
    load_official(network, weights)
    return network


def priorities_of(permutations: Iterator[Any], index: Tensor) -> Tensor:
    """Turns one permutation per code, in ascending order of codes, into the bank's priorities."""
    priorities = torch.empty(index.shape)
    for code in index.unique():
        places = (index.flatten() == code).nonzero()[:, 0]
        permutation = tensor(next(permutations))
        priorities.view(-1)[places[permutation]] = torch.arange(len(places)).float()
    return priorities


def split_permutations(lengths: Any, joined: Any) -> Iterator[Any]:
    return iter(np.split(joined, np.cumsum(lengths)[:-1]))


def contents(bank: ConceptBank) -> tuple[Tensor, Tensor]:
    """Lists codes and values, codes ascending, oldest first."""
    rows = [
        bank.slots[code, number % bank.capacity]
        for code, added in enumerate(bank.added.tolist())
        for number in range(max(0, added - bank.capacity), added)
    ]
    order = torch.stack(rows)
    return bank.codes[order], bank.values[order]
