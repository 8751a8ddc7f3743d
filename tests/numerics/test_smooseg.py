"""SmooSeg against vectors of its official code, float32: values 1e-5 absolute as their notes
suggest, gradients 1e-4 of the largest entry.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.numerics.comparing import Golden, Vectors, close, close_gradient
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec
from usseg_ray.methods.parts.correspondence import Maps, centre, moments, smoothness, unit_rows
from usseg_ray.methods.parts.heads import HeadMasks, SegmentationHead
from usseg_ray.methods.smooseg import SmooSeg, SmooSegDraws
from usseg_ray.settings.smooseg import SmooSegConfig


def leaf(array: Any) -> Tensor:
    return torch.as_tensor(array).clone().requires_grad_()


def naive_losses(first: Maps, second: Maps, shift: float, *, pointwise: bool) -> Tensor:
    """The definition, which builds every pair of positions."""
    features, codes = (unit_rows(a) @ unit_rows(b).mT for a, b in zip(first, second, strict=True))
    return ((centre(features) if pointwise else features) - shift) * (1 - codes)


@pytest.mark.parametrize("pointwise", [False, True])
def test_smoothness_of_every_pair_and_its_mean(golden: Golden, pointwise: bool) -> None:
    vectors = golden("hp/smooseg_helper.npz")
    features = [torch.as_tensor(vectors[name]) for name in ("f1", "f2")]
    codes = [leaf(vectors[name]) for name in ("c1", "c2")]
    first, second = (Maps(*pair) for pair in zip(features, codes, strict=True))
    shift = float(vectors["shift"])
    pairs = naive_losses(first, second, shift, pointwise=pointwise)
    close(pairs.view(3, 4, 4, 4, 4), vectors[f"pw{pointwise:d}_loss"])
    differences = 1 - unit_rows(codes[0]) @ unit_rows(codes[1]).mT
    close(differences.view(3, 4, 4, 4, 4), vectors["cd_one_minus_cos"])
    loss = smoothness(moments(first), moments(second), shift, pointwise=pointwise)
    close(loss, vectors[f"pw{pointwise:d}_loss"].mean())
    loss.backward()
    for number, code in enumerate(codes, start=1):
        close_gradient(code.grad, vectors[f"pw{pointwise:d}_grad_c{number}_of_mean"])


@pytest.mark.parametrize("pointwise", [False, True])
@pytest.mark.parametrize(("height", "width"), [(5, 3), (1, 4), (1, 1)])
def test_moments_equal_all_pairs_in_float64(height: int, width: int, pointwise: bool) -> None:
    random = torch.Generator().manual_seed(1)
    first, second = (
        Maps(
            torch.randn(3, 6, height, width, dtype=torch.float64, generator=random),
            torch.rand(3, 4, height, width, dtype=torch.float64, generator=random).requires_grad_(),
        )
        for _ in range(2)
    )
    loss = smoothness(moments(first), moments(second), 0.3, pointwise=pointwise)
    naive = naive_losses(first, second, 0.3, pointwise=pointwise).mean()
    torch.testing.assert_close(loss, naive, rtol=0, atol=1e-13)
    inputs = (first.codes, second.codes)
    for fast, slow in zip(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(naive, inputs), strict=True
    ):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-13)


def test_projection(golden: Golden) -> None:
    vectors = golden("hp/smooseg_projection.npz")
    out_dim, dim, *_ = vectors["w/cluster1.0.weight"].shape
    head = SegmentationHead(dim, out_dim, torch.Generator(), activation="silu")
    names = {"linear": "cluster1.0", "hidden": "cluster2.0", "output": "cluster2.2"}
    state = {
        f"{own}.{kind}": torch.as_tensor(vectors[f"w/{official}.{kind}"])
        for own, official in names.items()
        for kind in ("weight", "bias")
    }
    head.load_state_dict(state, strict=True)
    tokens = torch.as_tensor(vectors["feat"])
    close(tokens, vectors["eval_feat"])
    close(head(tokens), vectors["eval_code"])
    linear, nonlinear, features = (
        torch.as_tensor(vectors[f"drop_mask/{name}"])[:, :, None, None]
        for name in ("0_cluster1_in", "1_cluster2_in", "2_out_feat")
    )
    close(head(tokens, HeadMasks(linear, nonlinear)), vectors["train_code"])
    close(tokens * features, vectors["train_feat"])


class GivenCode(nn.Module):
    """A head that gives a recorded code."""

    def __init__(self, code: Tensor) -> None:
        super().__init__()
        self.code = code

    def forward(self, *_inputs: Any) -> Tensor:
        return self.code


def golden_method(vectors: Vectors, code: Tensor, **settings: Any) -> SmooSeg:
    """The method with recorded code and prototypes."""
    count, dim = vectors["local_clusters"].shape
    config = SmooSegConfig(
        dim=dim,
        temperature=float(vectors["temperature"]),
        decay=float(vectors["alpha"]),
        **settings,
    )
    spec = FeatureSpec(vectors["feats"].shape[1], 8, has_attention=False)
    method = SmooSeg(config, spec, count, seed=0)
    method.head = GivenCode(code)  # type: ignore[assignment]
    with torch.no_grad():
        for part in (method.student, method.lagging):
            part.centroids.copy_(torch.as_tensor(vectors["local_clusters"]))
        method.teacher.centroids.copy_(torch.as_tensor(vectors["global_clusters"]))
    return method


def golden_batch(vectors: Vectors) -> Batch:
    tokens = torch.as_tensor(vectors["feats"])
    return Batch(tuple("abcd"), torch.zeros(4, 3, 40, 40), FeatureMap(tokens))


@pytest.mark.parametrize("name", ["cityscapes", "cocostuff", "potsdam"])
def test_energy(golden: Golden, name: str) -> None:
    vectors = golden("hp/smooseg_energy.npz")
    own = {key.partition("/")[2]: value for key, value in vectors.items() if f"{name}/" in key}
    code = leaf(vectors["code"])
    intra, negative = own["shift_intra_inter"].astype(float).tolist()
    method = golden_method(vectors, code, shift_intra=intra, shift_negative=negative)
    batch = golden_batch(vectors)
    kept = torch.ones(4, batch.features.tokens.shape[1], 1, 1)
    negatives = torch.as_tensor(own["perm"])
    result = method.loss(batch, "train", SmooSegDraws(HeadMasks(kept, kept), kept, negatives))
    close(result.loss, own["total"])
    close(result.scalars["intra"], own["smooth_intra"])
    close(result.scalars["negative"], own["smooth_inter"])
    close(result.scalars["intra"] + result.scalars["negative"], own["smooth_loss"])
    close(result.scalars["data"], own["data_loss"])
    # Smoothness must not reach the student, nor the data term the code: the gradients of the whole
    # loss are those of the one term each.
    result.loss.backward()
    close_gradient(code.grad, own["grad_code_of_smooth"])
    close_gradient(method.student.centroids.grad, own["grad_local_clusters_of_data"])


def test_mean_difference_of_labels(golden: Golden) -> None:
    vectors = golden("hp/smooseg_energy.npz")
    code = torch.as_tensor(vectors["code"])
    method = golden_method(vectors, code)
    scores = method.teacher(code)
    images = moments(
        Maps(torch.as_tensor(vectors["feats"]), (scores / method.config.temperature).softmax(1))
    )
    for name in ("cityscapes", "cocostuff", "potsdam"):
        others = images.of(torch.as_tensor(vectors[f"{name}/perm"]))
        for kind, other in (("intra", images), ("inter", others)):
            difference = 1 - (images.codes * other.codes).sum(1).mean()
            close(difference, vectors[f"{name}/cd_{kind}_mean"])


def test_prototypes_score_and_teacher_predicts(golden: Golden) -> None:
    vectors = golden("hp/smooseg_energy.npz")
    code = torch.as_tensor(vectors["code"])
    method = golden_method(vectors, code)
    close(method.student(code), vectors["inner_local"])
    close(method.teacher(code), vectors["inner_global"])
    scores = method.predict(golden_batch(vectors))
    close((2 * scores).log_softmax(1), vectors["test_log_probs_x2"])


def test_teacher_follows_the_student(golden: Golden) -> None:
    vectors = golden("hp/smooseg_energy.npz")
    method = golden_method(vectors, torch.as_tensor(vectors["code"]))
    method.after_step()
    close(method.teacher.centroids, vectors["global_clusters_after_update"])


def test_teacher_is_one_step_behind_the_optimiser(golden: Golden) -> None:
    vectors = golden("hp/smooseg_energy.npz")
    method = golden_method(vectors, torch.as_tensor(vectors["code"]))
    adam = torch.optim.Adam(method.student.parameters(), lr=0.1)
    teacher = method.teacher.centroids.clone()
    for _ in range(4):
        adam.zero_grad()
        method.loss(golden_batch(vectors), "train").loss.backward()
        # Where the official code moves its teacher: after the loss, before the optimiser.
        teacher = 0.998 * teacher + 0.002 * method.student.centroids.detach()
        adam.step()
        method.after_step()
        close(method.teacher.centroids, teacher)
