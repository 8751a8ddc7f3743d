"""What a sweep comes back to, and where features are never stored."""

import io
import json
from dataclasses import replace
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
from usseg_ray.features.store.extraction import FeatureRequest, features_here
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.recipe import parts_of
from usseg_ray.features.store.shared import SharedStore
from usseg_ray.features.store.store import FeatureStore, default_store
from usseg_ray.scoring.label_free import NUM_IMAGES, VIEWED
from usseg_ray.sweeps import features as subject
from usseg_ray.sweeps.plan import Plan, make_plan
from usseg_ray.sweeps.request import Request
from usseg_ray.sweeps.space import Sample
from usseg_ray.trials.forecast import trial_time
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
    seen = [(use.split, use.view.crops is not None, use.methods) for use in uses]
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
    uses = subject._uses(plan_of(root, "stego", data__crops="random"))
    assert [use.view.crops for use in uses] == [None] * 3
    whole = subject._uses(plan_of(root, "kmeans", protocol="full-resolution"))
    assert [use.split for use in whole] == ["train"]
    assert subject._uses(plan_of(root, "position")) == []


def test_masks_of_training_crops_come_again_as_the_trials_draw_them(root: Path) -> None:
    plan = plan_of(root, "primaps", **FIXED, method__psi=0.5)
    (part,) = plan.parts
    samples: tuple[Sample, ...] = ({}, {"method.psi": 0.3}, {"method.scale": 20.0})
    uses = subject._uses(replace(plan, parts=(replace(part, samples=samples),)))
    found = {(use.split, use.view.crops is not None): use.masks for use in uses}
    assert {recipe.psi for recipe in found.pop(("train", True))} == {0.5, 0.3}
    assert not any(found.values())
    once = plan_of(root, "primaps", **FIXED, train__epochs=1)
    assert not any(use.masks for use in subject._uses(once))


def test_fixed_views_are_an_entry_of_their_own(root: Path) -> None:
    settings = {"method.consistency_weight": 0.05, "data.view_draws": 3} | FIXED
    uses = subject._uses(plan_of(root, "hp", **settings))
    (drawn,) = (use for use in uses if use.photometric is not None)
    assert drawn.photometric is not None
    assert drawn.photometric.draws == 3
    assert drawn.passes == pytest.approx(3 * 2 / 3)


def test_other_machines_must_be_able_to_read(tmp_path: Path) -> None:
    alone = FeatureStore(FeatureFolder(tmp_path / "here"))
    shared = FeatureStore(FeatureFolder(tmp_path / "here"), SharedStore.at(str(tmp_path / "there")))
    assert subject._readable_everywhere(alone, 1, "auto")
    assert not subject._readable_everywhere(alone, 2, "auto")
    assert subject._readable_everywhere(shared, 2, "cache")
    with pytest.raises(UserError, match=r"2 machines need a place .*USSEG_FEATURES_SHARED"):
        subject._readable_everywhere(alone, 2, "cache")


def test_what_is_there_is_chosen_for_good(root: Path, tmp_path: Path) -> None:
    plan = plan_of(root, "kmeans", resources__features="auto")
    store, said = FeatureStore(FeatureFolder(tmp_path / "store", 10**9)), io.StringIO()
    asked = asked_of(plan)
    console = Console(file=said, width=200)
    for _, wanted in asked:
        store.obtain(wanted, HERE).close()
    keys = [wanted.entry.key for _, wanted in asked]
    for _ in range(2):
        assert subject._chosen(plan, store, asked, tmp_path, console) == keys
    # A resumed sweep decides nothing.
    assert said.getvalue().count("in the store.") == len(keys)
    assert not any(kept.in_use for kept in store.folder.entries())
    # It reads what it read before, whatever has come since.
    (tmp_path / subject.CHOSEN_FILE).write_text(json.dumps(keys[:1]))
    assert subject._chosen(plan, store, asked, tmp_path, console) == keys[:1]


def test_what_is_chosen_fits_together(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FeatureFolder, "reserve", 0)
    plan, said = plan_of(root, "stego", "kmeans", **FIXED), io.StringIO()
    asked = asked_of(plan)
    (_, square), (_, val), (_, test), (_, crops) = asked
    # Crops alone would fit.
    room = crops.num_bytes + square.num_bytes
    folder = FeatureFolder(tmp_path / "store", limit_bytes=room)
    chosen = subject._chosen(
        plan, FeatureStore(folder), asked, tmp_path, Console(file=said, width=200)
    )
    assert chosen == [square.entry.key, val.entry.key, test.entry.key]
    lines = said.getvalue().splitlines()
    assert [line.split(":")[1].split("(")[0] for line in lines] == [
        " stored ",
        " stored ",
        " stored ",
        " computed in each pass ",
    ]
    assert lines[-1].endswith("the store has room for 27.8 kB).")


def asked_of(plan: Plan) -> list[tuple[subject._Use, FeatureRequest]]:
    backbone = build_backbone(plan.config.backbone)
    return [(use, subject._wanted(plan, use, backbone, "cpu")) for use in subject._uses(plan)]


@pytest.mark.parametrize(
    ("few", "device", "where"),
    [(14, "cpu", "here"), (13, "cpu", "pool"), (14, "cuda", "pool")],
)
def test_little_is_computed_without_a_pool(
    few: int, device: str, where: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(root, "kmeans")
    backbone = build_backbone(plan.config.backbone)
    wanted = subject._wanted(plan, subject._uses(plan)[0], backbone, device)
    assert wanted.entry.rows == 14
    blocks = {name: [{"id": np.array([name])}] for name in ("here", "pool")}
    monkeypatch.setattr(subject, "FEW_ROWS", few)
    monkeypatch.setattr(subject, "features_here", lambda *_: lambda *_: iter(blocks["here"]))
    monkeypatch.setattr(subject, "ray_features", lambda _: lambda *_: iter(blocks["pool"]))
    compute = subject._computing(backbone, device)
    every = wanted.pieces(range(wanted.entry.num_shards))
    assert list(compute(wanted, every)) == blocks[where]


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
        view = StoredView(use.split, use.view, wanted.entry.key)
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


def test_an_estimate_has_features_of_a_few_images_of_what_would_be_stored(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USSEG_FEATURES", str(tmp_path))
    # One crop is timed, which no JPEG file stands behind.
    plan = plan_of(root, "stego", "kmeans", **FIXED | {"data.crop_jpeg": 75})
    with subject.stored_excerpt(plan, "cpu") as (timed, store, seconds, disk):
        assert disk > 0
        stored = {part.method: part.placement.stored for part in timed.parts}
        assert {view.split for view in stored["stego"]} == {"train", "val"}
        assert seconds is not None
        assert seconds > 0
        jobs = timed.first_jobs()
        assert all(trial_time(job, 0.1, store).seconds > 0 for job in jobs)
        home = store.folder.root
    assert not home.exists()
    assert not list(tmp_path.iterdir())
    with subject.stored_excerpt(plan_of(root, "stego", resources__features="recompute"), "cpu") as (
        timed,
        _,
        seconds,
        disk,
    ):
        assert ([part.placement.stored for part in timed.parts], seconds, disk) == ([()], None, 0)
