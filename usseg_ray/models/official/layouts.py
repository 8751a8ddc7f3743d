"""How official code names its tensors, and what these are here: one function a method.

The names are facts of the published checkpoints: STEGO's and SmooSeg's are Lightning's files, HP
keeps three states in one, CAUSE each in a file beside its clusterbook (`modular.npy`), PiCIE's are
of a network in `DataParallel`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from usseg_ray.core.errors import UserError
from usseg_ray.models.official.tensors import SEPARATOR

Tensors = Mapping[str, Tensor]

_HEAD = {"cluster1.0": "linear", "cluster2.0": "hidden", "cluster2.2": "output"}
"""STEGO's head and its successors'."""

_TEACHER = {"ema_model1.0": "linear", "ema_model2.0": "hidden", "ema_model2.2": "output"}

_CAUSE_HEAD = {"f1": "linear", "f2.0": "hidden", "f2.2": "output"}

_DECODER = {
    "self_attn.out_proj": "self_attention.out",
    "multihead_attn.out_proj": "cross_attention.out",
    "linear1": "widen",
    "linear2": "narrow",
    "norm1": "norms.0",
    "norm2": "norms.1",
    "norm3": "norms.2",
}
"""Layers of CAUSE-TR's decoder."""

_ATTENTIONS = {"self_attn": "self_attention", "multihead_attn": "cross_attention"}

_LATERALS = ("layer4", "layer3", "layer2", "layer1")
"""Of PiCIE's decoder, finest stage first."""

_PARTS = ("weight", "bias")


@dataclass(frozen=True)
class OfficialModel:
    """What a checkpoint is.

    Attributes:
        method: Name of the method here.
        settings: What follows from its tensors' shapes.
        state: Tensors of the method, by their names here.
        backbone: Tensors of the frozen network, by timm's names; empty where it has none of them.
        width: Channels of that network's tokens; 0 where the method reads none.
    """

    method: str
    settings: dict[str, Any]
    state: dict[str, Tensor]
    backbone: dict[str, Tensor] = field(default_factory=dict)
    width: int = 0


def is_method(tensors: Tensors) -> bool:
    """Tells whether some tensors are of a method's checkpoint that is known."""
    return not _MARKS.keys().isdisjoint(map(bare_name, tensors))


def recognise(tensors: Tensors) -> OfficialModel:
    """Says which method's checkpoint some tensors are.

    Args:
        tensors: As `tensors.read_tensors` names them, of all files of a checkpoint.

    Raises:
        UserError: Of none that is known, or some of its tensors are missing.
    """
    bare = {bare_name(name): tensor for name, tensor in tensors.items()}
    for mark, read in _MARKS.items():
        if mark in bare:
            try:
                return read(bare)
            except KeyError as error:
                raise UserError(
                    f"The checkpoint lacks {error.args[0]}, which official ones have. CAUSE's "
                    "consists of segment_*.pth, cluster_*.pth and modular.npy: give all three."
                ) from None
    shown = ", ".join(sorted(bare)[:4])
    raise UserError(
        f"The checkpoint is of none of STEGO, HP, CAUSE, SmooSeg and PiCIE ({len(bare)} tensors: "
        f"{shown}, ...)."
    )


def bare_name(name: str) -> str:
    """Takes away what wrappers for several GPUs put before every name."""
    within, mark, own = name.rpartition(SEPARATOR)
    return f"{within}{mark}{own.removeprefix('module.')}"


def _stego(tensors: Tensors) -> OfficialModel:
    own = _below(tensors, f"state_dict{SEPARATOR}")
    clusters = own["cluster_probe.clusters"]
    state = {"probe.centroids": clusters, **_layers(_below(own, "net."), _HEAD, "head")}
    return _coded("stego", state, clusters, _below(own, "net.model."), "head")


def _hp(tensors: Tensors) -> OfficialModel:
    own = _below(tensors, f"net_model_state_dict{SEPARATOR}")
    clusters = tensors[f"cluster_model_state_dict{SEPARATOR}clusters"]
    state = {
        "probe.centroids": clusters,
        **_layers(own, _HEAD, "head"),
        **_layers(own, _TEACHER, "teacher"),
    }
    return _coded("hp", state, clusters, _below(own, "model."), "head")


def _smooseg(tensors: Tensors) -> OfficialModel:
    own = _below(tensors, f"state_dict{SEPARATOR}")
    teacher, student = (own[f"prediction.{name}_clusters"] for name in ("global", "local"))
    state = {
        "teacher.centroids": teacher,
        "lagging.centroids": student,
        "student.centroids": student,
        **_layers(_below(own, "projection."), _HEAD, "head"),
    }
    found = _coded("smooseg", state, teacher, _below(own, "net.model."), "head")
    del found.settings["method.clustering"]
    return found


def _coded(
    method: str, state: dict[str, Tensor], clusters: Tensor, backbone: dict[str, Tensor], head: str
) -> OfficialModel:
    """Words what methods with a head and clusters of its codes have in common."""
    settings = {
        "num_clusters": len(clusters),
        "method.dim": clusters.shape[1],
        "method.clustering": "probe",
        "data.train_size": 224,
        "data.eval_size": 320,
        "protocol": "stego-320",
    }
    return OfficialModel(method, settings, state, backbone, state[f"{head}.hidden.weight"].shape[0])


def _cause(tensors: Tensors) -> OfficialModel:
    clusters = tensors["cluster_probe"]
    # A file of its own has the one that was used; the cluster's state a copy of it.
    clusterbook = tensors["array"] if "array" in tensors else tensors["codebook"]
    state, positions = {"probe.centroids": clusters, "clusterbook": clusterbook}, None
    for theirs, ours in (("head_ema", "teacher"), ("head", "student")):
        positions = tensors.get(f"{theirs}.query_pos")
        state |= _cause_head(_below(tensors, f"{theirs}."), f"{ours}.head")
        projection = _below(tensors, f"projection_{theirs}.f.")
        state |= {f"{ours}.projection.{part}": projection[part] for part in _PARTS}
    head = "teacher.head" if positions is None else "teacher.head.head"
    found = _coded("cause", state, clusters, {}, head)
    found.settings["method.num_codes"] = len(clusterbook)
    found.settings["method.projection_dim"] = len(state["teacher.projection.weight"])
    found.settings["method.head"] = "mlp" if positions is None else "tr"
    if positions is not None:
        # A position a token: crops and frames have the same ones.
        found.settings["method.ffn_dim"] = len(state["teacher.head.widen.weight"])
        found.settings["data.train_size"] = 320
    return found


def _cause_head(own: Tensors, ours: str) -> dict[str, Tensor]:
    """Reads a head of either kind: that of `tr` has a decoder layer before its own."""
    if "query_pos" not in own:
        return _layers(own, _CAUSE_HEAD, ours)
    decoder = _below(own, "tr.")
    found = {f"{ours}.position": own["query_pos"]}
    found |= _layers(decoder, _CAUSE_HEAD, f"{ours}.head") | _layers(decoder, _DECODER, ours)
    for theirs, name in _ATTENTIONS.items():
        for part in _PARTS:
            joined = decoder[f"{theirs}.in_proj_{part}"]
            for kind, value in zip(("query", "key", "value"), joined.chunk(3), strict=True):
                found[f"{ours}.{name}.{kind}.{part}"] = value
    return found


def _picie(tensors: Tensors) -> OfficialModel:
    own = _below(tensors, f"state_dict{SEPARATOR}")
    network = {
        f"stages.{name}": tensor
        for name, tensor in _below(own, "backbone.").items()
        if not name.startswith("fc.")
    }
    for place, layer in enumerate(_LATERALS):
        for part in _PARTS:
            network[f"decoder.laterals.{place}.{part}"] = own[f"decoder.{layer}.{part}"]
    state = {f"{of}.{k}": v for of in ("network", "labeller") for k, v in network.items()}
    first = tensors[f"classifier1_state_dict{SEPARATOR}weight"].flatten(1)
    wide = own["decoder.layer1.weight"].shape[1] > 512
    settings: dict[str, Any] = {
        "num_clusters": len(first),
        "method.network.dim": first.shape[1],
        "method.network.name": "resnet50" if wide else "resnet18",
        "data.train_size": 320,
        "data.eval_size": 320,
        "protocol": "picie-320",
    }
    second = tensors.get(f"classifier2_state_dict{SEPARATOR}weight")
    if second is None:
        settings["method.variant"] = "mdc"
        state["clustering.centroids"] = first[None]
        weight = tensors[f"classifier1_state_dict{SEPARATOR}weight"]
        bias = tensors[f"classifier1_state_dict{SEPARATOR}bias"]
        state |= {"classifier.weight": weight, "classifier.bias": bias}
    else:
        state["clustering.centroids"] = torch.stack([first, second.flatten(1)])
    return OfficialModel("picie", settings, state)


def _below(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _layers(tensors: Tensors, names: Mapping[str, str], ours: str) -> dict[str, Tensor]:
    """Renames layers that have weight and bias."""
    return {
        f"{ours}.{own}.{part}": tensors[f"{theirs}.{part}"]
        for theirs, own in names.items()
        for part in _PARTS
    }


_MARKS: dict[str, Callable[[Tensors], OfficialModel]] = {
    f"state_dict{SEPARATOR}cluster_probe.clusters": _stego,
    f"state_dict{SEPARATOR}prediction.global_clusters": _smooseg,
    f"net_model_state_dict{SEPARATOR}cluster1.0.weight": _hp,
    f"state_dict{SEPARATOR}decoder.layer4.weight": _picie,
    "head_ema.query_pos": _cause,
    "head_ema.f1.weight": _cause,
}
"""A tensor that a method's checkpoint alone has."""
