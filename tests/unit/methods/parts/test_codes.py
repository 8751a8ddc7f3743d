"""Grouping codes: centroids learnt beside the head, or k-means on the finished codes."""

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.contract.cases import FEATURES, Given, Walks, make_batch
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, StepResult
from usseg_ray.methods.hp import HP
from usseg_ray.methods.parts import codes
from usseg_ray.methods.parts.codes import CodeMethod
from usseg_ray.methods.stego import STEGO
from usseg_ray.ops.kmeans import kmeans
from usseg_ray.settings.hp import HPConfig
from usseg_ray.settings.stego import STEGOConfig

BUILD: dict[str, Callable[[str], CodeMethod]] = {
    "stego": lambda how: STEGO(
        STEGOConfig(clustering=how, dim=8, feature_samples=3, negatives=2), FEATURES, 4, seed=0
    ),
    "hp": lambda how: HP(HPConfig(clustering=how, dim=8, pool_size=16), FEATURES, 4, seed=0),
}


@pytest.fixture(params=BUILD)
def build(request: pytest.FixtureRequest) -> Callable[[str], CodeMethod]:
    return BUILD[request.param]


def test_kmeans_groups_the_codes_of_all_images(build: Callable[[str], CodeMethod]) -> None:
    method = build("kmeans").eval()
    batches = make_batch([0, 1]), make_batch([2, 3, 4])
    method.fit_clusters(Given(*batches))
    codes = torch.cat([method.encode(batch).flatten(2).mT.flatten(0, 1) for batch in batches])
    expected = kmeans(codes, 4, seed=0, spherical=True)
    found = torch.nn.functional.normalize(method.probe.centroids.detach(), dim=1)
    best = (codes @ found.T / codes.norm(dim=1, keepdim=True)).max(1).values
    oracle = (codes @ expected.centroids.T / codes.norm(dim=1, keepdim=True)).max(1).values
    assert best.mean().item() == pytest.approx(oracle.mean().item(), abs=1e-3)


def test_the_order_of_images_does_not_matter(build: Callable[[str], CodeMethod]) -> None:
    one, other = build("kmeans").eval(), build("kmeans").eval()
    one.fit_clusters(Given(make_batch([0, 1]), make_batch([2, 3])))
    other.fit_clusters(Given(make_batch([3]), make_batch([2, 0, 1])))
    assert torch.equal(one.probe.centroids, other.probe.centroids)


class Counted(Walks):
    """Counts the images that are encoded."""

    encoded = 0

    def crops(self, walk: int, batch_size: int) -> Iterator[Batch]:
        for batch in super().crops(walk, batch_size):
            Counted.encoded += len(batch.ids)
            yield batch


def test_images_without_a_sampled_code_are_not_encoded(
    build: Callable[[str], CodeMethod], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codes, "_POINTS_PER_CLUSTER", 12)
    all_of_them, few = build("kmeans").eval(), build("kmeans").eval()
    monkeypatch.setattr(Counted, "encoded", 0)
    few.fit_clusters(Counted(range(60), batch_size=1))
    # 48 codes of 960: each of the 60 images has some with a chance of 0.56.
    assert 20 < Counted.encoded < 45
    monkeypatch.setattr(codes, "holding", lambda *_: None)
    all_of_them.fit_clusters(Walks(range(60), batch_size=1))
    assert torch.equal(few.probe.centroids, all_of_them.probe.centroids)


def test_found_centroids_are_not_learnt(build: Callable[[str], CodeMethod]) -> None:
    learnt, found = build("probe"), build("kmeans")
    held = {id(p) for group in found.param_groups("train") for p in group.params}
    assert id(found.probe.centroids) not in held
    assert len(found.param_groups("train")) == len(learnt.param_groups("train")) - 1
    codes = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    result = StepResult(codes.sum(), {})
    assert found.with_probe(result, codes) is result
    cluster = learnt.probe.loss(codes.detach()).detach()
    joint = learnt.with_probe(result, codes)
    assert joint.loss.item() == pytest.approx((result.loss + cluster).item())
    assert joint.scalars == {"cluster": cluster}


def test_learnt_centroids_stay(build: Callable[[str], CodeMethod]) -> None:
    method = build("probe")
    before = method.probe.centroids.detach().clone()
    method.fit_clusters(Given(make_batch([0, 1])))
    assert torch.equal(method.probe.centroids, before)


def test_too_few_codes_say_so(build: Callable[[str], CodeMethod]) -> None:
    method = build("kmeans")
    with torch.no_grad():
        for weight in method.head.parameters():
            weight.zero_()
    with pytest.raises(UserError, match="codes"):
        method.fit_clusters(Given(make_batch([0])))


def test_both_kinds_of_centroids_are_those_of_either(build: Callable[[str], CodeMethod]) -> None:
    batches = make_batch([0, 1]), make_batch([2, 3])
    either, learnt, grouped = (build(how).eval() for how in ("auto", "probe", "kmeans"))
    for method in (either, learnt, grouped):
        method.fit_clusters(Given(*batches))
    kinds = {"probe": learnt, "kmeans": grouped}
    assert either.clusterings().keys() == kinds.keys()
    for name, alone in kinds.items():
        assert not alone.clusterings()
        either.clusterings()[name]()
        assert torch.equal(either.predict(batches[0]), alone.predict(batches[0]))
    assert len(either.probe_groups()) == 1
    assert not either.untouched(either.config)
