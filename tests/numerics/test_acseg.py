"""ACSeg against an independent float64 reference, in float64 and float32."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec
from usseg_ray.methods.acseg import ACSeg
from usseg_ray.methods.parts.concept_generator import ConceptGenerator
from usseg_ray.methods.parts.regions import pool_regions
from usseg_ray.ops.attention import cls_score, minhead_score, two_means_split
from usseg_ray.ops.modularity import (
    Graph,
    affinity,
    cosine,
    graph,
    hard_modularity,
    modularity_loss,
    pair_intensity,
)
from usseg_ray.settings.acseg import ACSegConfig

Vectors = dict[str, Any]
Golden = Callable[[str], Vectors]
LOSSES = ("loss_paper", "loss_noloops", "loss_cause_tanh")
GENERATORS = ("acg_post_relu", "acg_pre_gelu")
DTYPES = (torch.float64, torch.float32)


def close(actual: Tensor, expected: Any) -> None:
    """1e-9 in float64, 1e-5 in float32, absolute."""
    atol = 1e-9 if actual.dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(actual.detach().double().numpy(), expected, rtol=0, atol=atol)


def close_gradient(actual: Tensor | None, expected: Any) -> None:
    """1e-9 absolute in float64; in float32 1e-4 of the gradient's largest entry."""
    assert actual is not None
    scale = 1e-9 if actual.dtype == torch.float64 else max(1e-4 * np.abs(expected).max(), 1e-8)
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=0, atol=scale)


def as_tensor(array: Any, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(array).to(dtype)


def tanh_scale(vectors: Vectors) -> float | None:
    scale = float(vectors["tanh_scale"])
    return None if np.isnan(scale) else scale


@pytest.fixture(params=DTYPES, ids=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


@pytest.mark.parametrize("name", LOSSES)
def test_graph(golden: Golden, name: str, dtype: torch.dtype) -> None:
    vectors = golden(f"acseg/{name}.npz")
    edges = affinity(as_tensor(vectors["pixels"], dtype), keep_loops=bool(vectors["keep_loops"]))
    close(edges, vectors["affinity"])
    close(edges.sum(2), vectors["degree"])
    modularity, two_m = graph(edges)
    close(modularity, vectors["modularity"])
    np.testing.assert_allclose(two_m.double().numpy(), vectors["two_m"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_assignment(golden: Golden, name: str, dtype: torch.dtype) -> None:
    vectors = golden(f"acseg/{name}.npz")
    soft = cosine(as_tensor(vectors["pixels"], dtype), as_tensor(vectors["concepts"], dtype))
    close(soft, vectors["soft"])
    close(soft.clamp(min=0), vectors["soft_pos"])
    np.testing.assert_array_equal(soft.argmax(2).numpy(), vectors["hard"])
    delta, winner = pair_intensity(soft.clamp(min=0))
    scale = tanh_scale(vectors)
    close(delta if scale is None else (delta / scale).tanh(), vectors["delta"])
    np.testing.assert_array_equal(winner.numpy(), vectors["winner"])


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient(golden: Golden, name: str, dtype: torch.dtype) -> None:
    vectors = golden(f"acseg/{name}.npz")
    pixels = as_tensor(vectors["pixels"], dtype)
    concepts = as_tensor(vectors["concepts"], dtype).requires_grad_()
    pixel_graph = graph(affinity(pixels, keep_loops=bool(vectors["keep_loops"])))
    loss = modularity_loss(cosine(pixels, concepts), pixel_graph, tanh_scale=tanh_scale(vectors))
    close(loss, vectors["loss"])
    close(loss.mean(), vectors["batch_mean_loss"])
    loss.sum().backward()
    close_gradient(concepts.grad, vectors["grad_concepts"])
    hard = torch.as_tensor(vectors["hard"])
    close(hard_modularity(hard, pixel_graph), vectors["hard_modularity"])


class EdgeCase:
    """One image of the edge cases and the loss of concepts on it."""

    def __init__(self, pixels: Any, dtype: torch.dtype) -> None:
        self.pixels = as_tensor(pixels, dtype)[None]
        self.graph: Graph = graph(affinity(self.pixels))

    def loss(self, concepts: Any) -> Tensor:
        concepts = as_tensor(concepts, self.pixels.dtype)[None]
        return modularity_loss(cosine(self.pixels, concepts), self.graph)[0]


@pytest.fixture
def edges(golden: Golden) -> Vectors:
    return golden("acseg/edge_cases.npz")


def test_equal_pixels_have_no_structure(edges: Vectors, dtype: torch.dtype) -> None:
    loss = EdgeCase(edges["same_pixels"], dtype).loss(edges["same_concepts"])
    assert abs(float(loss)) < (1e-12 if dtype == torch.float64 else 1e-6)


def test_planted_groups(edges: Vectors, dtype: torch.dtype) -> None:
    case = EdgeCase(edges["planted_pixels"], dtype)
    centres = edges["planted_centres"]
    three, two, one = (case.loss(centres[:count]) for count in (3, 2, 1))
    assert three < two < one
    close(three, edges["planted_soft_loss"])
    close(two, edges["planted_two_concepts_loss"])
    close(one, edges["planted_one_concept_loss"])
    labels = torch.as_tensor(edges["planted_labels"])[None]
    close(hard_modularity(labels, case.graph)[0], edges["planted_hard_modularity"])


def test_opposed_concepts_are_dead(edges: Vectors, dtype: torch.dtype) -> None:
    case = EdgeCase(edges["opposed_pixels"], dtype)
    concepts = as_tensor(edges["opposed_concepts"], dtype).requires_grad_()
    loss = case.loss(concepts)
    loss.backward()
    assert loss == 0
    assert concepts.grad is not None
    assert not concepts.grad.any()


def test_zero_concept_is_ignored(edges: Vectors, dtype: torch.dtype) -> None:
    case = EdgeCase(edges["zero_pixels"], dtype)
    concepts = as_tensor(edges["zero_concept"], dtype).requires_grad_()
    loss = case.loss(concepts)
    loss.backward()
    close(loss, edges["zero_loss"])
    close(loss, edges["zero_dropped_loss"])
    assert concepts.grad is not None
    assert concepts.grad.isfinite().all()


def test_duplicate_concept_changes_nothing(edges: Vectors, dtype: torch.dtype) -> None:
    case = EdgeCase(edges["dup_pixels"], dtype)
    close(case.loss(edges["dup_concepts"]), edges["dup_loss"])
    close(case.loss(edges["nodup_concepts"]), edges["nodup_loss"])


def test_lengths_change_nothing(edges: Vectors, dtype: torch.dtype) -> None:
    case = EdgeCase(edges["scaled_pixels"], dtype)
    close(case.loss(edges["scaled_concepts"]), edges["scaled_loss"])
    close(case.loss(edges["scaled_concepts"]), edges["nodup_loss"])


def parameter_name(golden_name: str) -> str:
    """Translates a name of the reference: `block0.cross.wq` -> `blocks.0.cross_attention...`."""
    if golden_name == "prototypes":
        return golden_name
    block, part, leaf = golden_name.split(".")
    prefix = f"blocks.{block.removeprefix('block')}"
    kind = "weight" if leaf[0] in "wg" else "bias"
    if part.startswith("ln"):
        return f"{prefix}.norms.{int(part[2:]) - 1}.{kind}"
    if part == "ffn":
        return f"{prefix}.ffn.{ {'1': 0, '2': 2}[leaf[1]] }.{kind}"
    layer = {"q": "query", "k": "key", "v": "value", "o": "out"}[leaf[1]]
    return f"{prefix}.{part}_attention.{layer}.{kind}"


def as_parameter(name: str, array: Any) -> Any:
    """Turns the reference's input x output matrices into torch's output x input."""
    return array.T if array.ndim == 2 and name != "prototypes" else array


def golden_config(vectors: Vectors) -> ACSegConfig:
    return ACSegConfig(
        num_prototypes=vectors["w:prototypes"].shape[0],
        num_blocks=int(vectors["cfg_blocks"]),
        num_heads=int(vectors["cfg_heads"]),
        ffn_ratio=vectors["w:block0.ffn.w1"].shape[1] // vectors["w:block0.ffn.w1"].shape[0],
        norm=str(vectors["cfg_norm"]),
        activation=str(vectors["cfg_act"]),
    )


def load_generator(vectors: Vectors, dtype: torch.dtype) -> ConceptGenerator:
    dim = vectors["w:prototypes"].shape[1]
    generator = ConceptGenerator(golden_config(vectors), dim, torch.Generator()).to(dtype)
    names = [name.removeprefix("w:") for name in vectors if name.startswith("w:")]
    state = {
        parameter_name(name): torch.as_tensor(as_parameter(name, vectors[f"w:{name}"]))
        for name in names
    }
    generator.load_state_dict(state, strict=True)
    for norm in generator.modules():
        if isinstance(norm, nn.LayerNorm):
            assert norm.eps == float(vectors["layer_norm_eps"])
    return generator


@pytest.mark.parametrize("name", GENERATORS)
def test_generator(golden: Golden, name: str, dtype: torch.dtype) -> None:
    vectors = golden(f"acseg/{name}.npz")
    generator = load_generator(vectors, dtype)
    pixels = as_tensor(vectors["pixels"], dtype)
    blocks: list[Tensor] = []
    for block in generator.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: blocks.append(output))
    concepts = generator(pixels)
    close(concepts, vectors["concepts"])
    close(torch.stack(blocks, dim=1), vectors["after_block"])
    soft = cosine(pixels, concepts)
    close(soft, vectors["soft"])
    np.testing.assert_array_equal(soft.argmax(2).numpy(), vectors["hard"])
    loss = modularity_loss(soft, graph(affinity(pixels)))
    close(loss, vectors["loss"])
    loss.mean().backward()
    parameters = dict(generator.named_parameters())
    for golden_name in (key[2:] for key in vectors if key.startswith("g:")):
        expected = as_parameter(golden_name, vectors[f"g:{golden_name}"])
        close_gradient(parameters.pop(parameter_name(golden_name)).grad, expected)
    assert not parameters


@pytest.mark.parametrize("name", GENERATORS)
def test_last_cross_attention(golden: Golden, name: str) -> None:
    vectors = golden(f"acseg/{name}.npz")
    generator = load_generator(vectors, torch.float32)
    pixels = as_tensor(vectors["pixels"], torch.float32)
    last: Any = generator.blocks[-1]
    queries: list[Tensor] = []
    last.cross_attention.register_forward_pre_hook(
        lambda _module, inputs: queries.append(inputs[0])
    )
    generator(pixels)
    close(last.cross_attention.maps(queries[0], pixels), vectors["last_cross_maps"])


@pytest.mark.parametrize("name", GENERATORS)
def test_method_computes_the_golden_loss(golden: Golden, name: str) -> None:
    vectors = golden(f"acseg/{name}.npz")
    images, count, dim = vectors["pixels"].shape
    method = ACSeg(golden_config(vectors), FeatureSpec(dim, 8, has_attention=False), 2, seed=0)
    method.generator = load_generator(vectors, torch.float32)
    tokens = as_tensor(vectors["pixels"], torch.float32).mT.reshape(images, dim, 2, count // 2)
    batch = Batch(("a", "b"), torch.zeros(images, 3, 16, 16), FeatureMap(tokens.contiguous()))
    close(method.loss(batch, "train").loss, vectors["batch_mean_loss"])


def test_background(golden: Golden, dtype: torch.dtype) -> None:
    vectors = golden("acseg/background.npz")
    attention = as_tensor(vectors["attention"], dtype)[None]
    least, cls = minhead_score(attention), cls_score(attention)
    close(least[0], vectors["token_score"])
    close(cls[0], vectors["cls_score"])
    hard = torch.as_tensor(vectors["hard"])[None]
    scores = torch.stack([least, cls], dim=2)
    sums, counts = pool_regions(scores, hard, int(hard.max()) + 1)
    used = counts[0].nonzero()[:, 0]
    np.testing.assert_array_equal(used.numpy(), vectors["used"])
    sums, means = sums[0, used], sums[0, used] / counts[0, used, None]
    pairs = (
        (sums[:, 0], "region_sum", "foreground_by_sum"),
        (means[:, 0], "region_mean", "foreground_by_mean"),
        (means[:, 1], "region_cls_mean", "foreground_by_cls_mean"),
    )
    for values, name, split in pairs:
        close(values, vectors[name])
        upper = two_means_split(values[None], torch.ones(1, len(values), dtype=torch.bool))[0]
        np.testing.assert_array_equal(upper.numpy(), vectors[split])


def naive_loss(pixels: Tensor, concepts: Tensor, gamma: float) -> float:
    """The definition, written as loops over pairs."""

    def cos(a: Tensor, b: Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    count = len(pixels)
    edge = [[max(0.0, cos(a, b)) for b in pixels] for a in pixels]
    degree = [sum(row) for row in edge]
    two_m = sum(degree)
    total = 0.0
    for i in range(count):
        for j in range(count):
            null = gamma * degree[i] * degree[j] / two_m
            agree = max(max(0.0, cos(pixels[i], c)) * max(0.0, cos(pixels[j], c)) for c in concepts)
            total += (edge[i][j] - null) * agree
    return -total / two_m


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_resolution_against_loops(gamma: float) -> None:
    random = torch.Generator().manual_seed(3)
    pixels = torch.randn(1, 9, 6, dtype=torch.float64, generator=random)
    concepts = torch.randn(1, 4, 6, dtype=torch.float64, generator=random)
    loss = modularity_loss(cosine(pixels, concepts), graph(affinity(pixels), gamma=gamma))
    assert float(loss[0]) == pytest.approx(naive_loss(pixels[0], concepts[0], gamma), abs=1e-12)
