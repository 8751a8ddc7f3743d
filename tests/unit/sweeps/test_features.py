"""What a sweep comes back to, and where features are never stored."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from tests import tiny
from tests.features import HERE, vit
from tests.planned import jobs
from usseg_ray.core.config import flatten
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import FeatureMap
from usseg_ray.engine.context import PlainContext
from usseg_ray.features.backbones import TimmFeatures, build_backbone
from usseg_ray.features.store.extraction import Wanted, features_here
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.recipe import parts_of
from usseg_ray.features.store.shared import SharedStore
from usseg_ray.features.store.store import FeatureStore, default_store
from usseg_ray.scoring.label_free import NUM_IMAGES, VIEWED
from usseg_ray.sweeps import features as subject
from usseg_ray.sweeps.plan import Plan, make_plan
from usseg_ray.sweeps.request import Request
from usseg_ray.trials.job import StoredView
from usseg_ray.trials.worker import baselines, build_run

FIXED = {"data.crops": "five", "data.flip": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    tiny.write(folder)
    return folder


def plan_of(root: Path, *methods: str, **assigned: Any) -> Plan:
    settings = {k: v for k, v in tiny.SETTINGS.items() if k != "data.name"}
    changed = {key.replace("__", "."): value for key, value in assigned.items()}
    request = Request.model_validate(
        {
            "methods": dict.fromkeys(methods),
            "data": str(root),
            "assigned": settings | changed,
            "num_samples": len(methods),
            "search": "random",
            "scheduler": "none",
        }
    )
    return make_plan(request)


def test_frames_and_fixed_crops_come_again(root: Path) -> None:
    uses = subject._uses(plan_of(root, "stego", "kmeans", **FIXED))
    seen = [(use.split, use.crops is not None, use.methods) for use in uses]
    both = ["stego", "kmeans"]
    assert seen == [
        ("train", False, both),
        ("val", False, both),
        ("test", False, both),
        ("train", True, both),
    ]
    assert all(use.parts == ("tokens",) for use in uses)
    # Both trials are trained with three seeds: stego for two epochs each, kmeans for the one of a
    # method without stages. Their six final scores walk the test split, and the training split;
    # baselines walk the test split.
    assert [use.passes for use in uses] == [9 + 6, 9, 6 + 2, 9]


def test_what_is_drawn_anew_does_not(root: Path) -> None:
    uses = subject._uses(plan_of(root, "stego"))
    assert [use.crops for use in uses] == [None] * 3
    whole = subject._uses(plan_of(root, "kmeans", protocol="full-resolution"))
    assert [use.split for use in whole] == ["train"]
    assert subject._uses(plan_of(root, "position")) == []


def test_fixed_views_are_an_entry_of_their_own(root: Path) -> None:
    settings = {"method.consistency_weight": 0.05, "data.view_draws": 3} | FIXED
    uses = subject._uses(plan_of(root, "hp", **settings))
    (drawn,) = (use for use in uses if use.views is not None)
    assert drawn.views is not None
    assert drawn.views.draws == 3
    assert drawn.passes == pytest.approx(3 * 2 / 3)


def test_other_machines_must_be_able_to_read(tmp_path: Path) -> None:
    alone = FeatureStore(FeatureFolder(tmp_path / "here"))
    shared = FeatureStore(FeatureFolder(tmp_path / "here"), SharedStore.at(str(tmp_path / "there")))
    assert subject._readable_everywhere(alone, 1, "auto")
    assert not subject._readable_everywhere(alone, 2, "auto")
    assert subject._readable_everywhere(shared, 2, "cache")
    with pytest.raises(UserError, match=r"2 machines need a place .*USSEG_FEATURES_SHARED"):
        subject._readable_everywhere(alone, 2, "cache")


def test_what_is_there_is_chosen_without_measuring_and_for_good(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(root, "kmeans")
    store = FeatureStore(FeatureFolder(tmp_path / "store"))
    backbone = build_backbone(plan.config.backbone)
    asked = [(use, subject._wanted(plan, use, backbone, "cpu")) for use in subject._uses(plan)]
    for _, wanted in asked:
        store.obtain(wanted, HERE).close()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the backbone was asked")

    monkeypatch.setattr(subject, "probe", refuse)
    measure, silent = subject._measuring(backbone, "cpu"), Console(quiet=True)
    keys = [wanted.entry.key for _, wanted in asked]
    assert subject._chosen(plan, store, asked, measure, tmp_path, silent) == keys
    # A resumed sweep reads what it read before, whatever has come since.
    (tmp_path / subject.CHOSEN_FILE).write_text(json.dumps(keys[:1]))
    assert subject._chosen(plan, store, asked, measure, tmp_path, silent) == keys[:1]


def test_splits_of_a_set_are_measured_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(root, "kmeans", **FIXED)
    backbone = build_backbone(plan.config.backbone)
    seen = list[tuple[str, bool]]()

    def measured(wanted: Wanted, *_: object) -> tuple[float, float]:
        seen.append((wanted.split, wanted.entry.recipe.crops is not None))
        return 0.1, 0.4

    monkeypatch.setattr(subject, "probe", measured)
    measure = subject._measuring(backbone, "cpu")
    asked = [subject._wanted(plan, use, backbone, "cpu") for use in subject._uses(plan)]
    assert [measure(wanted) for wanted in asked] == [(0.1, 0.4)] * 4
    # Frames, and crops.
    assert seen == [("train", False), ("train", True)]


@pytest.mark.parametrize(
    ("row_s", "device", "where"),
    [(0.1, "cpu", "here"), (2.0, "cpu", "pool"), (0.1, "cuda", "pool")],
)
def test_little_is_computed_without_a_pool(
    row_s: float, device: str, where: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(root, "kmeans")
    backbone = build_backbone(plan.config.backbone)
    wanted = subject._wanted(plan, subject._uses(plan)[0], backbone, device)
    assert 5 < wanted.entry.rows < 100
    blocks = {name: [{"id": np.array([name])}] for name in ("here", "pool")}
    monkeypatch.setattr(subject, "features_here", lambda *_: lambda *_: iter(blocks["here"]))
    monkeypatch.setattr(subject, "ray_features", lambda _: lambda *_: iter(blocks["pool"]))
    compute = subject._computing(backbone, device, lambda _: (0.0, row_s))
    assert list(compute(wanted, wanted.pieces(range(1)))) == blocks[where]


def test_what_is_stored_is_all_that_a_sweep_looks_at(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USSEG_FEATURES", str(tmp_path / "store"))
    settings = flatten(vit(tmp_path), "backbone.") | FIXED | {"data.view_draws": 1}
    small = tiny.ACSEG | tiny.OWN["stego"] | {"method.pool_size": 12, "train.epochs": 1}
    plan = plan_of(root, "acseg", "hp", "stego", **settings, **small)
    backbone, stored = build_backbone(plan.config.backbone), dict[str, tuple[StoredView, ...]]()
    for use in subject._uses(plan):
        wanted = subject._wanted(plan, use, backbone, "cpu")
        default_store().obtain(wanted, features_here(backbone, "cpu")).close()
        view = StoredView(use.split, use.view, wanted.entry.key, use.views is not None)
        for method in use.methods:
            stored[method] = (*stored.get(method, ()), view)
    counted = count_forwards(monkeypatch)
    planned = list(jobs(plan.on("cpu", "", stored)).values())
    parts = set()
    for chosen in (planned, planned[-1:]):
        for job in chosen:
            run = build_run(job, PlainContext(torch.device("cpu"), []))
            run.fit()
            parts.add(parts_of(run.featurise.needs))
        # The second views of a few images, which label-free criteria look at: once for each
        # selection of parts that methods read.
        assert sum(counted) == (len(parts) * NUM_IMAGES // VIEWED if chosen == planned else 0)
        counted.clear()
    run.score("test")
    run.linear("test")
    baselines(planned[0])
    assert counted == []


def count_forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the rows of each forward pass from now on."""
    counted: list[int] = []
    forward = TimmFeatures.forward

    def counting(self: TimmFeatures, normalised: torch.Tensor, *rest: Any) -> FeatureMap:
        counted.append(len(normalised))
        return forward(self, normalised, *rest)

    monkeypatch.setattr(TimmFeatures, "forward", counting)
    return counted
