"""Both heads of CAUSE against vectors of its official code, float32: values 1e-5 absolute."""

import numpy as np
import torch
from torch import Tensor, nn

from tests.numerics.cause import as_map, as_rows, make_network, tensor
from tests.numerics.comparing import Golden, Vectors, close
from usseg_ray.methods.parts.concept_head import ConceptHead, ConceptMasks
from usseg_ray.methods.parts.concepts import nearest_codes
from usseg_ray.methods.parts.heads import HeadMasks


def unpack_mask(vectors: Vectors, name: str) -> Tensor:
    """Reads a keep-mask with the factor of dropout."""
    mask = vectors[f"mask_{name}"]
    if f"mask_shape_{name}" in vectors:
        shape = vectors[f"mask_shape_{name}"]
        mask = np.unpackbits(mask)[: np.prod(shape)].reshape(shape)
    return torch.as_tensor(mask).float() / (1 - float(vectors["drop_p"]))


def test_s2_9_mlp_head(golden: Golden) -> None:
    vectors = golden("cause/head_mlp.npz")
    network = make_network(vectors)
    tokens = as_map(vectors["x"])
    codes = network.codes(tokens)
    close(as_rows(codes), vectors["out"])
    close(as_rows(network(codes)), vectors["proj"])
    weight, bias = tensor(vectors["linear/f.weight"]), tensor(vectors["linear/f.bias"])
    close(nn.functional.conv2d(codes, weight, bias), vectors["linear"])
    masks = HeadMasks(unpack_mask(vectors, "f1"), unpack_mask(vectors, "f2"))
    close(as_rows(network.codes(tokens, masks=masks)), vectors["out_dropout"])


def test_s2_10_tr_head(golden: Golden) -> None:
    vectors = golden("cause/head_tr.npz")
    network = make_network(vectors)
    head = network.head
    assert isinstance(head, ConceptHead)
    tokens, codebook = as_map(vectors["x"]), tensor(vectors["codebook"])
    queries = codebook[nearest_codes(tokens, codebook)].permute(0, 3, 1, 2)
    close(as_rows(queries), vectors["vq"])
    normed: list[Tensor] = []
    for norm in head.norms:
        norm.register_forward_hook(lambda _module, _inputs, output: normed.append(output))
    codes = network.codes(tokens, queries)
    close(normed[0], vectors["after_norm1"])
    close(normed[1], vectors["after_norm2"])
    close(head.decode(as_rows(tokens), as_rows(queries)), vectors["before_f"])
    close(as_rows(codes), vectors["out"])
    close(as_rows(network(codes)), vectors["proj"])


def test_s2_10_tr_head_with_dropout(golden: Golden) -> None:
    vectors = golden("cause/head_tr.npz")
    network = make_network(vectors)

    def rows(name: str) -> Tensor:
        return unpack_mask(vectors, name).transpose(0, 1)

    masks = ConceptMasks(
        unpack_mask(vectors, "self_attn_weights")[:, None],
        rows("dropout1"),
        unpack_mask(vectors, "cross_attn_weights")[:, None],
        rows("dropout2"),
        rows("ffn_hidden"),
        rows("dropout3"),
        HeadMasks(unpack_mask(vectors, "drop_f1"), unpack_mask(vectors, "drop_f2")),
    )
    codes = network.codes(as_map(vectors["x"]), as_map(vectors["vq"]), masks)
    close(as_rows(codes), vectors["out_dropout"])
