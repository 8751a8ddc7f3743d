"""Iterations of CAUSE's steps 2 and 3 against vectors of its official code.

Losses 1e-4 relative, summaries of parameters 1e-3, as their notes suggest.
for the clip norm, in step 3 it trains the teacher. Here these tests alone add that probe, match the
iterations, and then show that without it exactly these terms are gone.

Not applicable: `modularity_l2_affinity.npz` and the arrays `l2_affinity`, `index_l2` of `vq.npz`
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, normalize

from tests.numerics.cause import (
    as_map,
    as_rows,
    as_windows,
    contents,
    make_network,
    official_state,
    priorities_of,
    split_permutations,
    tensor,
)
from tests.numerics.comparing import Golden, Vectors, close
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, Step
from usseg_ray.methods.cause import CAUSE, CAUSEDraws
from usseg_ray.methods.parts.clusterbook import clusterbook_losses
from usseg_ray.methods.parts.concepts import nearest_codes
from usseg_ray.settings.cause import CAUSEConfig

HEADS = ("mlp", "tr")
FILES = {
    (2, "mlp"): "cause/step2_train_mlp.npz",
    (2, "tr"): "cause/step2_train_tr.npz",
    (3, "mlp"): "cause/step3_train_mlp.npz",
    (3, "tr"): "cause/step3_train_tr.npz",
}
ITERATIONS = 3


class Supervision(nn.Module):
    """The official supervised probe, which the product does not have: these tests only."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__()
        weight = vectors["init/linear/f.weight"]
        self.f = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
        leaves = ("weight", "bias")
        self.f.load_state_dict({leaf: tensor(vectors[f"init/linear/f.{leaf}"]) for leaf in leaves})

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        logits = interpolate(self.f(codes), labels.shape[1:], mode="bilinear", align_corners=False)
        valid = (labels >= 0) & (labels < logits.shape[1])
        return cross_entropy(logits.permute(0, 2, 3, 1)[valid], labels[valid])


class Training:
    """A method in the state in which official iterations start, and their inputs."""

    def __init__(self, golden: Golden, step: int, head: str) -> None:
        self.vectors = vectors = golden(FILES[step, head])
        network = make_network(vectors, "init/", "head" if step == 2 else "head_ema")
        codebook = tensor(vectors["codebook"])
        num_classes, code_dim = vectors["init/cluster_probe"].shape
        config = CAUSEConfig(
            head=head,
            num_codes=len(codebook),
            dim=code_dim,
            projection_dim=network.projection.out_channels,
            dropout=0,
        )
        images, tokens, dim = vectors["feat_0"].shape
        side = int(tokens**0.5)
        features = FeatureSpec(dim, 8, has_attention=True, grid=side, eval_grid=side)
        self.method = CAUSE(config, features, num_classes, seed=0)
        self.method.student.load_state_dict(network.state_dict())
        self.method.teacher.load_state_dict(network.state_dict())
        with torch.no_grad():
            self.method.clusterbook.copy_(codebook)
            self.method.probe.centroids.copy_(tensor(vectors["init/cluster_probe"]))
        self.supervision = Supervision(vectors)
        self.images = images

    def batch(self, step: int) -> Batch:
        names = tuple("abc"[: self.images])
        tokens = as_map(self.vectors[f"feat_{step}"])
        pixels, later = torch.zeros(self.images, 3, 96, 96), ITERATIONS + 1
        return Batch(names, pixels, FeatureMap(tokens), Step(step, later, step))

    def draws(self, step: int, permutations: Iterator[Any] | None = None) -> CAUSEDraws:
        windows = as_windows(self.vectors["orders"][step], self.images)
        if permutations is None:
            return CAUSEDraws(windows, None, None, torch.zeros(windows.picks.shape))
        picked = windows.pick(self.batch(step).features.tokens)
        index = nearest_codes(picked, self.method.clusterbook.detach())
        return CAUSEDraws(windows, None, None, priorities_of(permutations, index))

    def teacher_codes(self, step: int) -> Tensor:
        """Computes the teacher's codes of all tokens, with gradient where it has one."""
        method, tokens = self.method, self.batch(step).features.tokens
        queries = None
        if method.config.head == "tr":
            clusterbook = method.clusterbook.detach()
            queries = clusterbook[nearest_codes(tokens, clusterbook)].permute(0, 3, 1, 2)
        return method.teacher.codes(tokens, queries)

    def supervised_loss(self, step: int, codes: Tensor) -> Tensor:
        loss: Tensor = self.supervision(codes, tensor(self.vectors[f"label_{step}"]))
        return loss

    def adam(self, parameters: list[nn.Parameter], *, decay: bool = True) -> torch.optim.Adam:
        weight_decay = float(self.vectors["weight_decay"]) if decay else 0.0
        return torch.optim.Adam(parameters, lr=float(self.vectors["lr"]), weight_decay=weight_decay)

    def check_summaries(self) -> None:
        """Compares sum, norm, first, middle and last entry of every parameter."""
        found = {
            name.replace("head", kind, 1): parameter
            for kind, network in (("head", self.method.student), ("head_ema", self.method.teacher))
            for name, parameter in official_state(network).items()
        }
        found |= {f"linear.{name}": p for name, p in self.supervision.named_parameters()}
        for name, parameter in found.items():
            flat = parameter.detach().flatten().double()
            summary = [flat.sum(), flat.norm(), flat[0], flat[len(flat) // 2], flat[-1]]
            expected = self.vectors[f"final_summary/{name}"]
            np.testing.assert_allclose(summary, expected, rtol=1e-3, atol=1e-3, err_msg=name)


def norm_of(parameters: list[nn.Parameter]) -> float:
    grads = [p.grad for p in parameters if p.grad is not None]
    return float(torch.stack([grad.norm() for grad in grads]).norm())


@pytest.mark.parametrize("head", HEADS)
def test_step_2_with_the_supervised_probe_in_the_clip_norm(golden: Golden, head: str) -> None:
    run = Training(golden, 2, head)
    vectors, method = run.vectors, run.method
    (group,) = method.param_groups("concepts")
    probe = list(run.supervision.parameters())
    adam = run.adam([*group.params, *probe])
    permutations = split_permutations(vectors["perm_len"], vectors["perm_concat"])
    for step in range(ITERATIONS):
        adam.zero_grad()
        result = method.loss(run.batch(step), "concepts", run.draws(step, permutations))
        supervised = run.supervised_loss(step, run.teacher_codes(step))
        np.testing.assert_allclose(result.loss.detach(), vectors["loss_main"][step], rtol=1e-4)
        np.testing.assert_allclose(supervised.detach(), vectors["loss_linear"][step], rtol=1e-4)
        (result.loss + supervised).backward()
        norm, limit = vectors["grad_norm_and_clip"][step]
        assert limit == group.clip_norm
        own, leaked = norm_of(group.params), norm_of(probe)
        # What the product clips by is the official norm without the probe's share.
        assert leaked > 0
        assert own**2 + leaked**2 == pytest.approx(norm**2, rel=1e-3)
        nn.utils.clip_grad_norm_([*group.params, *probe], limit)
        adam.step()
        method.after_step()
    assert next(permutations, None) is None
    codes, values = contents(method.bank)
    np.testing.assert_array_equal(codes, vectors["bank_code"])
    expected = normalize(tensor(vectors["bank_value"]), dim=1)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-3)
    run.check_summaries()


@pytest.mark.parametrize("head", HEADS)
def test_step_2_without_labels_differs_by_the_clipping_alone(golden: Golden, head: str) -> None:
    run = Training(golden, 2, head)
    vectors, method = run.vectors, run.method
    (group,) = method.param_groups("concepts")
    adam = run.adam(group.params)
    permutations = split_permutations(vectors["perm_len"], vectors["perm_concat"])
    norms, losses = [], []
    for step in range(2):
        adam.zero_grad()
        result = method.loss(run.batch(step), "concepts", run.draws(step, permutations))
        losses.append(float(result.loss.detach()))
        result.loss.backward()
        norms.append(norm_of(group.params))
        assert group.clip_norm is not None
        nn.utils.clip_grad_norm_(group.params, group.clip_norm)
        adam.step()
        method.after_step()
    assert losses[0] == pytest.approx(vectors["loss_main"][0], rel=1e-4)
    assert norms[0] < vectors["grad_norm_and_clip"][0, 0]
    # Adam forgets the scale of a first gradient but for its L2 term: a second step hardly differs.
    assert losses[1] == pytest.approx(vectors["loss_main"][1], rel=1e-2)


@pytest.mark.parametrize("head", HEADS)
def test_step_3_with_the_leak_that_trains_the_teacher(golden: Golden, head: str) -> None:
    run = Training(golden, 3, head)
    vectors, method = run.vectors, run.method
    method.teacher.requires_grad_()
    leaking = [*method.teacher.head.parameters(), *run.supervision.parameters()]
    segment, cluster = run.adam(leaking), run.adam([method.probe.centroids], decay=False)
    before = {name: p.detach().clone() for name, p in official_state(method.teacher).items()}
    for step in range(ITERATIONS):
        segment.zero_grad()
        cluster.zero_grad()
        result = method.loss(run.batch(step), "probe", run.draws(step))
        supervised = run.supervised_loss(step, run.teacher_codes(step))
        np.testing.assert_allclose(result.loss.detach(), vectors["loss_main"][step], rtol=1e-4)
        np.testing.assert_allclose(supervised.detach(), vectors["loss_linear"][step], rtol=1e-4)
        result.loss.backward()
        # All that reaches the teacher comes from the labels.
        assert all(p.grad is None for p in leaking)
        supervised.backward()
        norm, limit = vectors["grad_norm_and_clip"][step]
        assert norm_of(leaking) == pytest.approx(norm, rel=1e-3)
        nn.utils.clip_grad_norm_(leaking, limit)
        segment.step()
        cluster.step()
    np.testing.assert_allclose(
        method.probe.centroids.detach(), vectors["final/cluster_probe"], rtol=0, atol=1e-4
    )
    after = official_state(method.teacher)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("head")}
    for name in changed:
        flat = after[name].detach().flatten().double()
        summary = [flat.sum(), flat.norm(), flat[0], flat[len(flat) // 2], flat[-1]]
        expected = vectors[f"final_summary/{name.replace('head', 'head_ema', 1)}"]
        np.testing.assert_allclose(summary, expected, rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_step_3_without_labels_leaves_the_teacher_alone(golden: Golden, head: str) -> None:
    run = Training(golden, 3, head)
    vectors, method = run.vectors, run.method
    (group,) = method.param_groups("probe")
    adam = run.adam(group.params, decay=False)
    before = {name: tensor.clone() for name, tensor in method.teacher.state_dict().items()}
    codes = [run.teacher_codes(step).detach() for step in range(ITERATIONS)]
    for step in range(ITERATIONS):
        adam.zero_grad()
        result = method.loss(run.batch(step), "probe", run.draws(step))
        if step == 0:
            np.testing.assert_allclose(result.loss.detach(), vectors["loss_main"][0], rtol=1e-4)
        # The official loss of the codes that the teacher had before any label came.
        rows = as_rows(run.draws(step).windows.pick(codes[step]))
        close(result.loss, clusterbook_losses(rows, method.probe.centroids).mean().detach())
        result.loss.backward()
        adam.step()
        method.after_step()
    after = method.teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = method.probe.centroids.detach().numpy() - vectors["final/cluster_probe"]
    assert np.abs(moved).max() > 1e-5
