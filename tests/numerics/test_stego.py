"""STEGO against vectors of its official code, float32: values 1e-5 absolute as their notes suggest,
gradients 1e-4 of the largest entry, integers exact.

The cluster probe is checked against all three official codes that have it (STEGO, HP, CAUSE).
Not used here: `stego_crf_loss`, a loss whose weight is 0 in every published setting and which this
STEGO does not have (its kernels: `test_crf`); `unsup_metrics` (see `test_metrics`) and
`coco_fine_to_coarse` (`test_labels`); `hp_linear_probe_loss` (`test_linear_probe`).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.numerics.comparing import Golden, Vectors, close, close_gradient
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec
from usseg_ray.methods.parts.cluster_probe import ClusterProbe
from usseg_ray.methods.parts.correspondence import (
    Draws,
    Maps,
    Shifts,
    Switches,
    avoid_self,
    correspondence_terms,
    pair_losses,
    sample,
    unit_rows,
)
from usseg_ray.methods.parts.heads import HeadMasks
from usseg_ray.methods.stego import STEGO, STEGODraws, ViewMasks
from usseg_ray.ops.neighbours import nearest_neighbours
from usseg_ray.settings.stego import STEGOConfig

SETTINGS = ("coco_small", "coco_small_stab", "iarpa_default", "coco_base", "city_base")


def leaf(array: Any) -> Tensor:
    return torch.as_tensor(array).clone().requires_grad_()


def test_sampling_swaps_axes_and_clamps_to_the_border(golden: Golden) -> None:
    vectors = golden("hp/stego_sample.npz")
    maps, coords = (torch.as_tensor(vectors[name]) for name in ("t", "coords"))
    assert coords.abs().max() > 1
    close(sample(maps, coords), vectors["out"])


def test_nobody_is_its_own_negative(golden: Golden) -> None:
    vectors = golden("hp/stego_super_perm.npz")
    names = [name.removesuffix("_out") for name in vectors if name.endswith("_out")]
    assert names
    for name in names:
        raw = torch.as_tensor(vectors[f"{name}_raw_randperm"])
        np.testing.assert_array_equal(avoid_self(raw[None])[0].numpy(), vectors[f"{name}_out"])


@pytest.mark.parametrize("pointwise", [False, True])
@pytest.mark.parametrize("zero_clamp", [False, True])
@pytest.mark.parametrize("stabilise", [False, True])
def test_loss_of_every_pair(
    golden: Golden, pointwise: bool, zero_clamp: bool, stabilise: bool
) -> None:
    vectors = golden("hp/stego_helper.npz")
    prefix = f"pw{pointwise:d}_zc{zero_clamp:d}_st{stabilise:d}"
    first, second = (unit_rows(torch.as_tensor(vectors[name])) for name in ("f1", "f2"))
    codes = [leaf(vectors[name]) for name in ("c1", "c2")]
    cosines = unit_rows(codes[0]) @ unit_rows(codes[1]).mT
    close(cosines.view(2, 4, 4, 4, 4), vectors["cd"])
    switches = Switches(pointwise, zero_clamp, stabilise)
    losses = pair_losses(first @ second.mT, cosines, float(vectors["shift"]), switches)
    close(losses.view(2, 4, 4, 4, 4), vectors[f"{prefix}_loss"])
    losses.mean().backward()
    for number, code in enumerate(codes, start=1):
        close_gradient(code.grad, vectors[f"{prefix}_grad_c{number}_of_mean"])


class Setting:
    """One setting of the full loss with its recorded draws."""

    def __init__(self, vectors: Vectors, name: str) -> None:
        self.vectors, self.name = vectors, name
        own = {key.partition("/")[2]: value for key, value in vectors.items() if name + "/" in key}
        self.expected = own
        self.draws = Draws(*(torch.as_tensor(own[key]) for key in ("coords1", "coords2", "perms")))
        self.weights = own["w_intra_inter_neg"].astype(float).tolist()
        self.shifts = own["shift_intra_inter_neg"].astype(float).tolist()
        self.stabilise = name.endswith("_stab")
        self.features, self.positive = (
            torch.as_tensor(vectors[key]) for key in ("feats", "feats_pos")
        )
        self.codes, self.positive_codes = leaf(vectors["code"]), leaf(vectors["code_pos"])

    def check_gradients(self) -> None:
        close_gradient(self.codes.grad, self.expected["grad_code"])
        close_gradient(self.positive_codes.grad, self.expected["grad_code_pos"])


@pytest.fixture(params=SETTINGS)
def setting(request: pytest.FixtureRequest, golden: Golden) -> Setting:
    return Setting(golden("hp/stego_corr_loss_full.npz"), request.param)


def test_three_terms_of_the_correspondence_loss(setting: Setting) -> None:
    terms = correspondence_terms(
        Maps(setting.features, setting.codes),
        Maps(setting.positive, setting.positive_codes),
        setting.draws,
        Shifts(*setting.shifts),
        Switches(stabilise=setting.stabilise),
    )
    names = {"pos_intra": terms.intra, "pos_inter": terms.inter, "neg_inter_mean": terms.negative}
    for name, term in names.items():
        close(term.loss, setting.expected[name])
    names = {"intra": terms.intra, "inter": terms.inter, "neg": terms.negative}
    for name, term in names.items():
        close(term.similarity, setting.expected[f"cd_{name}_mean"])
    losses = torch.stack([term.loss for term in terms])
    total = (torch.tensor(setting.weights) * losses).sum()
    close(total, setting.expected["total"])
    total.backward()
    setting.check_gradients()


class GivenCodes(nn.Module):
    """A head that gives recorded codes, first those of the images, then those of neighbours."""

    def __init__(self, *codes: Tensor) -> None:
        super().__init__()
        self.codes: Iterator[Tensor] = iter(codes)

    def forward(self, *_inputs: Any) -> Tensor:
        return next(self.codes)


def test_method_weights_and_adds_the_terms(setting: Setting) -> None:
    count, dim, *_ = setting.features.shape
    kept = torch.ones(count, dim, 1, 1)
    masks = ViewMasks(HeadMasks(kept, kept), kept)
    fields = ("intra", "inter", "negative")
    config = STEGOConfig(
        dim=setting.codes.shape[1],
        clustering="probe",
        stabilise=setting.stabilise,
        **{f"weight_{field}": value for field, value in zip(fields, setting.weights, strict=True)},
        **{f"shift_{field}": value for field, value in zip(fields, setting.shifts, strict=True)},
    )
    method = STEGO(config, FeatureSpec(dim, 8, has_attention=False), 3, seed=0)
    method.head = GivenCodes(setting.codes, setting.positive_codes)  # type: ignore[assignment]
    batch = Batch(
        tuple("abcd"),
        torch.zeros(count, 3, 48, 48),
        FeatureMap(setting.features),
        positive=FeatureMap(setting.positive),
    )
    result = method.loss(batch, "train", STEGODraws(masks, masks, setting.draws))
    close(result.scalars["correspondence"], setting.expected["total"])
    close(result.loss - method.probe.loss(setting.codes), setting.expected["total"])
    result.loss.backward()
    setting.check_gradients()


def test_neighbours_of_mean_features(golden: Golden) -> None:
    vectors = golden("hp/stego_knn.npz")
    means = torch.as_tensor(vectors["spatial_feats"]).mean((2, 3))
    directions = torch.as_tensor(vectors["normed_mean_feats"])
    close(nn.functional.normalize(means, dim=1), directions)
    for rows in (means, directions):
        for block in (1, 5, 1024):
            found = nearest_neighbours(rows, vectors["top8"].shape[1], block=block)
            np.testing.assert_array_equal(found.numpy(), vectors["top8"])


def probe_of(centroids: Any) -> ClusterProbe:
    count, dim = centroids.shape
    probe = ClusterProbe(count, dim, torch.Generator())
    with torch.no_grad():
        probe.centroids.copy_(torch.as_tensor(centroids))
    return probe


@pytest.mark.parametrize("alpha", [None, 3, 2])
@pytest.mark.parametrize(
    ("name", "output"),
    [("cluster_lookup_stego", "probs_alpha"), ("cluster_lookup_hp", "out_alpha")],
)
def test_cluster_probe(golden: Golden, name: str, output: str, alpha: int | None) -> None:
    vectors = golden(f"hp/{name}.npz")
    codes, probe = leaf(vectors["x"]), probe_of(vectors["clusters"])
    loss = probe.loss(codes, alpha and float(alpha))
    close(loss, vectors[f"loss_alpha_{alpha}"])
    loss.backward()
    close_gradient(probe.centroids.grad, vectors[f"grad_clusters_alpha_{alpha}"])
    close_gradient(codes.grad, vectors[f"grad_x_alpha_{alpha}"])
    cosines = probe(codes)
    if alpha is None:
        hard = nn.functional.one_hot(cosines.argmax(1), cosines.shape[1]).permute(0, 3, 1, 2)
        np.testing.assert_array_equal(hard.numpy(), vectors[f"{output}_{alpha}"])
    else:
        close((alpha * cosines).softmax(1), vectors[f"{output}_{alpha}"])


def test_cluster_probe_log_probabilities(golden: Golden) -> None:
    stego, hp = (golden(f"hp/cluster_lookup_{source}.npz") for source in ("stego", "hp"))
    cosines = probe_of(stego["clusters"])(torch.as_tensor(stego["x"]))
    for alpha in (2, 3):
        close((alpha * cosines).log_softmax(1), stego[f"log_probs_alpha_{alpha}"])
    codes, probe = leaf(hp["x"]), probe_of(hp["clusters"])
    close((2 * probe(codes)).log_softmax(1), hp["out_alpha_2_log"])
    loss = probe.loss(codes, 2.0)
    close(loss, hp["loss_alpha_2_log"])
    loss.backward()
    close_gradient(probe.centroids.grad, hp["grad_clusters_alpha_2_log"])
    close_gradient(codes.grad, hp["grad_x_alpha_2_log"])


def test_cluster_probe_of_cause(golden: Golden) -> None:
    vectors = golden("hp/cluster_lookup_cause.npz")
    codes = torch.as_tensor(vectors["tokens"]).mT.reshape(2, 6, 5, 5)
    probe = probe_of(vectors["cluster_probe"])
    loss = probe.loss(codes)
    close(loss, vectors["loss"])
    loss.backward()
    close_gradient(probe.centroids.grad, vectors["grad_cluster_probe"])
    cosines = probe(codes)
    close((3 * cosines).log_softmax(1), vectors["log_probs_crf_alpha3"])
    for name in ("pred", "argmax_inference"):
        np.testing.assert_array_equal(cosines.argmax(1).numpy(), vectors[name])


def naive_terms(anchors: Maps, positives: Maps, draws: Draws, shift: float) -> list[float]:
    """The three terms with torch's own sampling and cosines, and a loop over negatives."""

    def read(maps: Tensor, coords: Tensor) -> Tensor:
        return nn.functional.grid_sample(
            maps, coords.transpose(1, 2), padding_mode="border", align_corners=True
        ).flatten(2)

    def term(first: list[Tensor], second: list[Tensor]) -> float:
        like, same = (
            nn.functional.cosine_similarity(a[:, :, :, None], b[:, :, None], dim=1)
            for a, b in zip(first, second, strict=True)
        )
        centred = like - like.mean(2, keepdim=True) + like.mean()
        return float((-same.clamp(min=0) * (centred - shift)).mean())

    here = [read(part, draws.anchors) for part in anchors]
    negatives = [
        term(here, [read(part[row], draws.others) for part in anchors]) for row in draws.negatives
    ]
    there = [read(part, draws.others) for part in positives]
    return [term(here, here), term(here, there), sum(negatives) / len(negatives)]


@pytest.mark.parametrize(("height", "width"), [(5, 3), (1, 4), (1, 1)])
def test_terms_against_a_naive_form_in_float64(height: int, width: int) -> None:
    random = torch.Generator().manual_seed(1)

    def normal(channels: int) -> Tensor:
        return torch.randn(3, channels, height, width, dtype=torch.float64, generator=random)

    anchors, positives = Maps(normal(6), normal(4)), Maps(normal(6), normal(4))
    coords = 3 * torch.rand(2, 3, 4, 4, 2, dtype=torch.float64, generator=random) - 1.5
    permutations = torch.stack([torch.randperm(3, generator=random) for _ in range(2)])
    draws = Draws(coords[0], coords[1], avoid_self(permutations))
    terms = correspondence_terms(anchors, positives, draws, Shifts(0.1, 0.1, 0.1), Switches())
    expected = naive_terms(anchors, positives, draws, 0.1)
    assert [float(term.loss) for term in terms] == pytest.approx(expected, abs=1e-12)
