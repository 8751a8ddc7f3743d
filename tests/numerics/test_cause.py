"""CAUSE's losses, banks and teacher against vectors of its official code, float32: values 1e-5
absolute and gradients 1e-4 of the largest entry, as their notes suggest; integers exact.

Not applicable: the arrays `l2_affinity`, `index_l2` of `vq.npz` (a variant that no official script
uses).
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.numerics.cause import (
    as_map,
    as_rows,
    as_windows,
    contents,
    priorities_of,
    segmentation_state,
    split_permutations,
    tensor,
)
from tests.numerics.comparing import Golden, Vectors, close, close_gradient
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec
from usseg_ray.methods.cause import CAUSE
from usseg_ray.methods.parts.clusterbook import best_agreement, clusterbook_losses
from usseg_ray.methods.parts.concepts import (
    Relations,
    contrast,
    mean_term,
    nearest_codes,
    relate,
)
from usseg_ray.methods.parts.heads import SegmentationHead, update_teacher
from usseg_ray.ops.concept_bank import ConceptBank, Keys
from usseg_ray.ops.modularity import affinity, cosine, graph
from usseg_ray.settings.cause import CAUSEConfig

# Shared primitives


def test_s1_7_one_token_of_every_window(golden: Golden) -> None:
    vectors = golden("cause/stochastic_sampling.npz")
    windows = as_windows(vectors["order"], 2)
    assert np.array_equal(as_rows(windows.pick(as_map(vectors["x"]))), vectors["out"])
    assert np.array_equal(as_rows(windows.pick(as_map(vectors["x2"]))), vectors["out2"])
    odd = as_windows(vectors["order_odd"], 2)
    assert np.array_equal(as_rows(odd.pick(as_map(vectors["x_odd"]))), vectors["out_odd"])
    assert np.array_equal(as_map(vectors["x"]), vectors["transform"])
    assert np.array_equal(as_rows(tensor(vectors["transform"])), vectors["untransform"])


def test_s2_1_nearest_code(golden: Golden) -> None:
    vectors = golden("cause/vq.npz")
    codebook = tensor(vectors["codebook"])
    tokens = tensor(vectors["z"])
    close(cosine(tokens, codebook.expand(2, -1, -1)), vectors["cos"])
    index = nearest_codes(as_map(tokens), codebook).flatten(1)
    np.testing.assert_array_equal(index, vectors["index"])
    np.testing.assert_array_equal(index, vectors["index_quantize"])
    assert np.array_equal(codebook[index], vectors["vq"])


# Step 1


def test_s1_1_to_s1_4_graph_and_cosines(golden: Golden) -> None:
    vectors = golden("cause/modularity.npz")
    tokens, codebook = tensor(vectors["x"]), tensor(vectors["codebook"])
    edges = affinity(tokens, keep_loops=False)
    close(edges, vectors["A"])
    np.testing.assert_allclose(edges.sum(2), vectors["d"], rtol=1e-5)
    modularity, total = graph(edges)
    np.testing.assert_allclose(total, vectors["e"], rtol=1e-5)
    close(modularity, vectors["W"])
    close(cosine(tokens, codebook.expand(2, -1, -1)).clamp(min=0), vectors["C"])


def test_a_graph_of_any_affinity(golden: Golden) -> None:
    # By distance, a variant that no official script uses: the modularity matrix is made alike.
    vectors = golden("cause/modularity_l2_affinity.npz")
    tokens = tensor(vectors["x"])
    edges = (-torch.cdist(tokens, tokens).square() / tokens.shape[2]).exp()
    edges.diagonal(dim1=1, dim2=2).zero_()
    modularity, total = graph(edges)
    np.testing.assert_allclose(total, vectors["e"], rtol=1e-5)
    close(modularity, vectors["W"])


def test_s1_5_agreement(golden: Golden) -> None:
    vectors = golden("cause/modularity.npz")
    for image, positive in enumerate(tensor(vectors["C"])):
        pair = best_agreement(positive)
        assert len(pair.first) == 36 * 37 // 2
        delta = (pair.product / float(vectors["temp"])).tanh()
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            close(delta, vectors["delta"][image][one, other])
            # Where tanh saturates, the official winner is the first of a tie that tanh made.
            sure = delta < 0.99
            expected = vectors["delta_argmax"][image][one, other]
            np.testing.assert_array_equal(pair.winner[sure], expected[sure])
            assert sure.float().mean() > 0.5


def test_s1_6_loss_and_gradient(golden: Golden) -> None:
    vectors = golden("cause/modularity.npz")
    codebook = tensor(vectors["codebook"]).requires_grad_()
    losses = clusterbook_losses(tensor(vectors["x"]), codebook, temperature=float(vectors["temp"]))
    close(losses, -vectors["trace"])
    close(losses.mean(), vectors["loss"])
    losses.mean().backward()
    close_gradient(codebook.grad, vectors["grad_codebook"])


@pytest.mark.parametrize("name", ["modularity_grid", "modularity_grid_remainder"])
def test_s1_6_on_sampled_tokens(golden: Golden, name: str) -> None:
    vectors = golden(f"cause/{name}.npz")
    codebook = tensor(vectors["codebook"]).requires_grad_()
    sampled = as_rows(as_windows(vectors["order"], 2).pick(as_map(vectors["x"])))
    assert np.array_equal(sampled, vectors["x_sampled"])
    loss = clusterbook_losses(sampled, codebook, temperature=float(vectors["temp"])).mean()
    close(loss, vectors["loss"])
    loss.backward()
    close_gradient(codebook.grad, vectors["grad_codebook"])


# Step 2


def golden_relations(vectors: Vectors, prefix: str = "") -> Relations:
    thresholds = {"positive_above": 0.3, "negative_below": 0.1}
    if prefix:
        thresholds = {
            "positive_above": float(vectors["alt_pos_thresh"]),
            "negative_below": float(vectors["alt_neg_thresh"]),
        }
    index = tensor(vectors["index"]).flatten()
    return relate(index, tensor(vectors["codebook"]), **thresholds)


def test_s2_2_which_tokens_attract_and_repel(golden: Golden) -> None:
    vectors = golden("cause/contrastive.npz")
    index = tensor(vectors["index"])
    np.testing.assert_array_equal(
        nearest_codes(as_map(vectors["feat"]), tensor(vectors["codebook"])).flatten(1), index
    )
    row, positive, active = golden_relations(vectors)
    count = index.numel()
    attracted = positive[row][:, index.flatten()] & ~torch.eye(count, dtype=torch.bool)
    repelled = (active & ~positive)[row][:, index.flatten()]
    shape = vectors["pos_mask"].shape
    np.testing.assert_array_equal(attracted.view(shape), vectors["pos_mask"].astype(bool))
    np.testing.assert_array_equal(repelled.view(shape), vectors["neg_mask"].astype(bool))
    bank = tensor(vectors["bank_code"])
    last = row.view(index.shape)[-1]
    np.testing.assert_array_equal(
        positive[last][:, bank], vectors["last_image_bank_pos_mask"].astype(bool)
    )
    np.testing.assert_array_equal(
        (active & ~positive)[last][:, bank], vectors["last_image_bank_neg_mask"].astype(bool)
    )


@pytest.mark.parametrize("kind", ["nobank", "bank", "alt"])
def test_s2_3_to_s2_6_contrast(golden: Golden, kind: str) -> None:
    vectors = golden("cause/contrastive.npz")
    prefix = "alt_" if kind == "alt" else ""
    relations = golden_relations(vectors, prefix)
    temperature = float(vectors[f"{prefix}temp"])
    anchors = tensor(vectors["proj"]).requires_grad_()
    index = tensor(vectors["index"]).flatten()
    keys = Keys(normalize(tensor(vectors["proj_ema"]).flatten(0, 1), dim=1), index)
    parts = [contrast(anchors, relations, keys, temperature=temperature, keys_are_anchors=True)]
    if kind != "nobank":
        bank = Keys(normalize(tensor(vectors["bank_value"]), dim=1), tensor(vectors["bank_code"]))
        close(bank.values, vectors["bank_value_norm"])
        parts.append(contrast(anchors, relations, bank, temperature=temperature))
    close(torch.stack([part.nats for part in parts], dim=1).flatten(), vectors[f"terms_{kind}"])
    loss = mean_term(parts)
    close(loss, vectors[f"loss_{kind}"])
    loss.backward()
    close_gradient(anchors.grad, vectors[f"grad_proj_{kind}"])


def test_s2_7_bank(golden: Golden) -> None:
    vectors = golden("cause/bank_update.npz")
    codebook = tensor(vectors["codebook"])
    dim = vectors["bank_value_norm"].shape[1]
    bank = ConceptBank(len(codebook), dim, int(vectors["max_num"]))
    assert len(bank) == 0
    for step in range(int(vectors["steps"])):
        index = nearest_codes(as_map(vectors[f"feat_{step}"]), codebook).flatten(1)
        np.testing.assert_array_equal(index, vectors[f"index_{step}"])
        np.testing.assert_array_equal(index.unique(), vectors[f"unique_codes_{step}"])
        permutations = split_permutations(
            vectors[f"perm_len_{step}"], vectors[f"perm_concat_{step}"]
        )
        priorities = priorities_of(permutations, index).flatten()
        bank.update(tensor(vectors[f"proj_ema_{step}"]).flatten(0, 1), index.flatten(), priorities)
        codes, values = contents(bank)
        np.testing.assert_array_equal(codes, vectors[f"bank_code_{step}"])
        close(values, normalize(tensor(vectors[f"bank_value_{step}"]), dim=1))
    close(values, vectors["bank_value_norm"])
    close(normalize(codebook, dim=1)[codes], vectors["bank_vq_norm"])


def test_s2_8_teacher(golden: Golden) -> None:
    vectors = golden("cause/ema.npz")
    code_dim, dim = vectors["student_init/f1.weight"].shape[:2]
    features = FeatureSpec(dim, 8, has_attention=False, grid=2, eval_grid=2)
    config = CAUSEConfig(num_codes=4, dim=code_dim, projection_dim=3, window=1)
    method = CAUSE(config, features, 2, seed=0)
    batch = Batch(("a",), torch.zeros(1, 3, 16, 16), FeatureMap(torch.rand(1, dim, 2, 2)))
    for step in range(3):
        state = {
            key.removeprefix(f"student_{step}/"): array
            for key, array in vectors.items()
            if key.startswith(f"student_{step}/")
        }
        with torch.no_grad():
            for name, parameter in segmentation_state(student_head(method), "").items():
                parameter.copy_(tensor(state[name]))
        method.loss(batch, "concepts")
        method.after_step()
        teacher = method.teacher.head
        assert isinstance(teacher, SegmentationHead)
        for name, parameter in segmentation_state(teacher, "").items():
            close(parameter, vectors[f"teacher_{step}/{name}"])


def student_head(method: CAUSE) -> SegmentationHead:
    head = method.student.head
    assert isinstance(head, SegmentationHead)
    return head


def test_update_teacher_is_plain_averaging(golden: Golden) -> None:
    vectors = golden("cause/ema.npz")
    heads = {}
    for role in ("student_1", "teacher_0"):
        weight = vectors[f"{role}/f1.weight"]
        heads[role] = SegmentationHead(weight.shape[1], weight.shape[0], torch.Generator())
        with torch.no_grad():
            for name, parameter in segmentation_state(heads[role], "").items():
                parameter.copy_(tensor(vectors[f"{role}/{name}"]))
    update_teacher(heads["teacher_0"], heads["student_1"], float(vectors["lamb"]))
    for name, parameter in segmentation_state(heads["teacher_0"], "").items():
        close(parameter, vectors[f"teacher_1/{name}"])
