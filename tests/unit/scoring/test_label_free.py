import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tests import tiny
from usseg_ray.core.config import JitterConfig, build_config
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.keys import key_seed
from usseg_ray.core.types import Batch, FeatureMap, Images
from usseg_ray.core.views import FixedView, Frame
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.reader import Reader
from usseg_ray.data.recolour import adjust, draw_recolouring
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.run import Run, assemble
from usseg_ray.features.featuriser import Featuriser
from usseg_ray.methods import METHODS, get
from usseg_ray.methods.kmeans import KMeans
from usseg_ray.ops.kmeans import assign, kmeans
from usseg_ray.scoring.label_free import (
    GRID,
    REFIT_ITERATIONS,
    REFITS,
    Judge,
    Judgement,
    _Points,
    agreement,
    second_views,
    stability,
)
from usseg_ray.scoring.objective import (
    CRITERIA,
    MODULARITY,
    SILHOUETTE,
    STABILITY,
    USED_SHARE,
    VIEW_AGREEMENT,
    VIEW_INFORMATION,
)
from usseg_ray.scoring.partitions import adjusted_rand_index

Set = tuple[str, Manifest]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Set:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root)


def run_of(data: Set, method: str, **settings: Any) -> Run:
    layers = [tiny.SETTINGS, tiny.OWN.get(method, {}), settings]
    config = build_config(get(method).Config, layers)
    return assemble(config, get(method), OpenSet(*data), PlainContext(torch.device("cpu"), []))


def judge_of(run: Run, *, keep_bytes: int = 2**30) -> Judge:
    return Judge(run.featurise, run.reader, batch_size=4, keep_bytes=keep_bytes)


def judged(run: Run, **keep: int) -> Judgement:
    run.score("val")
    return judge_of(run, **keep)(run.method)


@pytest.mark.parametrize("method", [method.name for method in METHODS])
def test_every_method_is_judged_and_left_as_it_was(prepared: Set, method: str) -> None:
    run = run_of(prepared, method)
    run.score("val")
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    modes = [module.training for module in run.method.modules()]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = judge_of(run)(run.method)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in run.method.modules()] == modes
    after = run.method.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in run.method.parameters())
    absent = set() if run.featurise.needs.features else {MODULARITY}
    assert set(found.metrics) == set(CRITERIA) - absent
    assert all(math.isfinite(value) and -1 <= value <= 1 for value in found.metrics.values())
    assert found.maps.shape == (tiny.SPLITS["train"], GRID, GRID)
    assert 0 <= found.maps.min() <= found.maps.max() < run.method.num_clusters


def test_what_is_kept_changes_nothing(prepared: Set) -> None:
    run = run_of(prepared, "kmeans")
    run.score("val")
    judge = judge_of(run)
    first, again, fresh = judge(run.method), judge(run.method), judged(run, keep_bytes=0)
    assert first.metrics == again.metrics == fresh.metrics
    assert np.array_equal(first.maps, again.maps)
    assert np.array_equal(first.maps, fresh.maps)


@pytest.mark.parametrize(("share", "reads"), [(1.0, 1), (0.99, 2), (0.0, 2)])
def test_images_are_read_again_where_they_do_not_fit(
    prepared: Set, monkeypatch: pytest.MonkeyPatch, share: float, reads: int
) -> None:
    run, few = run_of(prepared, "kmeans"), Reader.few
    run.score("val")
    counted: list[tuple[Any, ...]] = []
    judge = judge_of(run)
    judge(run.method)
    assert judge._kept is not None
    needed = sum(one.num_bytes for one in judge._kept)

    def noted(*arguments: Any) -> Iterator[Images]:
        counted.append(arguments)
        return few(*arguments)

    monkeypatch.setattr(Reader, "few", noted)
    judge = judge_of(run, keep_bytes=int(share * needed))
    for _ in range(2):
        judge(run.method)
    assert len(counted) == reads


def test_good_clusters_are_judged_better_than_noise(prepared: Set) -> None:
    run = run_of(prepared, "kmeans")
    good = judged(run)
    assert isinstance(run.method, KMeans)
    generator = torch.Generator().manual_seed(0)
    run.method.centroids.normal_(generator=generator)
    noise = judge_of(run)(run.method)
    for criterion in (SILHOUETTE, MODULARITY):
        assert good.metrics[criterion] > noise.metrics[criterion] + 0.05
    assert good.metrics[VIEW_AGREEMENT] > 0.05
    # The codes are the same, and so is what refits make of them.
    assert good.metrics[STABILITY] == noise.metrics[STABILITY]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_collapsed_clustering_is_finite_and_never_praised(prepared: Set, value: float) -> None:
    class Collapsed(KMeans):
        def describe(self, batch: Batch) -> Tensor:
            return torch.full_like(super().describe(batch), value)

    run = run_of(prepared, "kmeans")
    run.method.__class__ = Collapsed
    found = judge_of(run)(run.method).metrics
    assert {found[name] for name in (STABILITY, VIEW_AGREEMENT, VIEW_INFORMATION, SILHOUETTE)} == {
        0
    }
    assert found[USED_SHARE] == pytest.approx(1 / 3)
    assert found[MODULARITY] == pytest.approx(0, abs=1e-4)
    assert all(math.isfinite(v) for v in found.values())


def test_stored_features_are_used_and_the_second_view_is_computed(prepared: Set) -> None:
    run = run_of(prepared, "kmeans")
    plain = judged(run)
    computed: list[int] = []

    class Counting(Featuriser):
        def _features(self, normalised: Tensor, needs: Any) -> Any:
            computed.append(len(normalised))
            return super()._features(normalised, needs)

    tokens = {
        number: batch.features.tokens[index]
        for images in run.reader.few("train", 99, 4)
        for batch in [run.featurise(images)]
        for index, number in enumerate(images.rows.numbers.tolist() if images.rows else [])
    }

    class Kept:
        views = frozenset({("train", FixedView.of(Frame(tiny.SIDE)))})

        def __call__(self, rows: Any, needs: Any) -> Any:
            found = torch.stack([tokens[number] for number in rows.numbers.tolist()])
            return None if needs is None else type(batch.features)(found)

        def begin(self, rows: Any, needs: Any) -> Any:
            return lambda: self(rows, needs)

        def variant(self, rows: Any, _needs: Any, name: str, compute: Any) -> Any:
            assert len(rows.numbers)
            assert name
            return compute()

    batch = run.featurise(next(iter(run.reader.few("train", 1, 1))))
    run.featurise.__class__ = Counting
    run.featurise.stored = Kept()
    run.reader.names_only = run.featurise.without_pixels
    assert run.reader.names_only == Kept.views
    assert judge_of(run)(run.method).metrics == plain.metrics
    assert sum(computed) == 8


def test_agreement_does_not_praise_a_single_cluster() -> None:
    several, single = torch.tensor([0, 1, 2, 2]), torch.zeros(4, dtype=torch.int64)
    assert agreement(several, several) == 1
    assert agreement(single, single) == agreement(several, single) == 0
    assert agreement(several[:0], several[:0]) == 0


def test_clear_groups_are_found_again_at_their_number() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.eye(8)[:4].repeat(100, 1) + 0.1 * torch.randn(400, 8, generator=generator)
    assert stability(groups, 4) > 0.95
    assert stability(groups, 4) > stability(groups, 7) + 0.1
    noise = torch.randn(400, 8, generator=generator)
    assert stability(noise, 4) < 0.7
    assert stability(groups, 300) == 0
    assert stability(torch.zeros(50, 3), 2) == 0


def test_stability_is_that_of_its_definition() -> None:
    # Lengths vary and say nothing of the groups; an odd number has a half that is larger.
    random = torch.Generator().manual_seed(3)
    codes = torch.randn(151, 4, generator=random) * torch.rand(151, 1, generator=random)
    labels = []
    for refit in range(REFITS):
        order = torch.randperm(151, generator=shared_generator("label_free", "half", refit // 2))
        half = order[:75] if refit % 2 else order[75:]
        found = kmeans(
            codes[half], 5, refit, spherical=True, restarts=1, iterations=REFIT_ITERATIONS
        )
        labels.append(assign(codes, found.centroids, spherical=True))
    pairs = [adjusted_rand_index(*pair) for pair in combinations(labels, 2)]
    assert stability(codes, 5) == pytest.approx(fmean(pairs), abs=1e-9)
    assert 0.1 < stability(codes, 5) < 0.9


def test_a_worker_without_images_gives_no_points() -> None:
    codes, clustered, tokens, parts = _Points(torch.device("cpu")).gather()
    assert codes.shape == clustered.shape == tokens.shape == (0, 0)
    assert parts.shape == (0,)


def test_points_have_what_is_known_of_a_position_at_the_size_of_the_codes() -> None:
    points = _Points(torch.device("cpu"))
    random = torch.Generator().manual_seed(0)
    codes, tokens = torch.rand(2, 3, 4, 6, generator=random), torch.rand(2, 5, 2, 3)
    parts = torch.arange(48).view(2, 4, 6)
    batch = Batch(("a", "b"), torch.zeros(2, 3, 1, 1), FeatureMap(tokens))
    points.add(batch, codes, codes[:, :0], parts)
    found = points.gather()
    order = found[3].argsort()
    large = interpolate(tokens, size=(4, 6), mode="bilinear", align_corners=False)
    for one, maps in zip(found, (codes, codes[:, :0], large), strict=False):
        assert torch.equal(one[order], maps.permute(0, 2, 3, 1).flatten(0, 2))
    assert found[3][order].tolist() == list(range(48))


def test_second_views_are_recoloured_as_their_keys_say() -> None:
    pixels = torch.randint(256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    seen = second_views(pixels.to(torch.uint8), ("a",))[0].permute(1, 2, 0).numpy()
    draws = draw_recolouring(
        np.random.default_rng(key_seed("label_free", "view", "a")), JitterConfig()
    )
    coloured = adjust(pixels[0].permute(1, 2, 0).numpy().astype(np.uint8), draws)
    assert np.array_equal(seen, coloured[:, ::-1])


def test_second_views_are_mirrored_and_drawn_by_name() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2, 3, 16, 16), generator=generator).to(torch.uint8)
    views = second_views(pixels, ("a", "b"))
    assert torch.equal(second_views(pixels[1:], ("b",)), views[1:])
    assert not torch.equal(second_views(pixels[1:], ("a",)), views[1:])
    left = pixels.clone()
    left[..., :8] = 0
    left[..., 8:] = 255
    seen = second_views(left, ("a", "b")).float()
    assert (seen[..., :4].mean() - seen[..., -4:].mean()) > 50


def test_unlabelled_data_is_judged(tmp_path: Path) -> None:
    manifest = tiny.write(tmp_path, labelled=False, splits={"train": 9})
    run = run_of((str(tmp_path), manifest), "acseg", **{"train.epochs": 1})
    run.fit()
    context = run.context
    assert isinstance(context, PlainContext)
    assert set(context.history[-1]) >= {*CRITERIA, "label_free_seconds"}
    assert context.evaluation is not None
    assert context.evaluation.fixed.shape == (9, GRID, GRID)
