"""A run on stored features is the run on images, to the bit, and its backbone rests."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from usseg_ray.core.config import Config, MethodConfig
from usseg_ray.core.views import Crops, FixedView, Frame
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.reader import crops_of
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.run import Run, assemble
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.store.extraction import features_here, want
from usseg_ray.features.store.recipe import Views, parts_of
from usseg_ray.features.store.store import default_store
from usseg_ray.methods import get
from usseg_ray.ops.transfer import one_ahead
from usseg_ray.trials.job import StoredView
from usseg_ray.trials.stored import open_stored

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"data__flip": False, "train__epochs": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "acseg": ("acseg", {"data__crops": "centre"}),
    "acseg, five crops": ("acseg", {"data__crops": "five"}),
    "stego, neighbours": ("stego", {"data__crops": "five"}),
    "hp, fixed views": ("hp", {"data__crops": "five", "data__view_draws": 3}),
    "kmeans": ("kmeans", {"data__crops": "random"}),
    "primaps": ("primaps", {"data__crops": "centre"}),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root, shape=(40, 52))


def config_of(method: str, **settings: Any) -> Config[MethodConfig]:
    return tiny.config(method, **(SETTINGS | settings))


def run_of(
    data: tuple[str, Manifest], config: Config[MethodConfig], method: str, **options: Any
) -> Run:
    return assemble(config, get(method), OpenSet(*data, **options), PlainContext(CPU, []))


def store_all(
    data: tuple[str, Manifest], config: Config[MethodConfig], method: str
) -> tuple[StoredView, ...]:
    """Computes all that a run comes back to."""
    root, manifest = data
    backbone, needs = build_backbone(config.backbone), get(method).needs(config.method)
    frame = Frame(config.data.eval_size)
    asked: list[tuple[str, Frame, Crops | None, Views | None]]
    asked = [("train", frame, None, None), ("val", frame, None, None)]
    train, draws = Frame(config.data.train_size), config.data.view_draws
    if config.data.crops != "random":
        asked.append(("train", train, crops_of(config.data), None))
    if needs.photometric is not None:
        views = Views(draws=draws, jitter=needs.photometric)
        asked.append(("train", train, crops_of(config.data), views))
    found = []
    for split, shown, crops, drawn in asked:
        wanted = want(
            root,
            manifest,
            split,
            config.backbone,
            backbone,
            frame=shown,
            crops=crops,
            views=drawn,
            parts=("tokens",) if drawn else parts_of(needs),
        )
        default_store().obtain(wanted, features_here(backbone, "cpu")).close()
        if needs.masks is not None and crops is not None:
            default_store().obtain_masks(wanted, needs.masks)
        view = FixedView.of(shown, crops)
        named = view.recoloured(drawn.draws, drawn.jitter) if drawn else view
        found.append(StoredView(split, named, wanted.entry.key))
    return tuple(found)


class Resting(torch.nn.Module):
    """A backbone that must not be asked."""

    def forward(self, *_: Tensor) -> None:
        raise AssertionError("a stored feature was computed again")

    normalise = forward


@pytest.mark.parametrize("case", CASES)
def test_stored_features_give_the_scores_of_computed_ones(
    prepared: tuple[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("USSEG_FEATURES", str(tmp_path))
    method, settings = CASES[case]
    config = config_of(method, **settings)
    plain = run_of(prepared, config, method)
    plain.fit()
    views = store_all(prepared, config, method)
    stored = open_stored(views, get(method).needs(config.method), CPU)
    # The first run leaves the second views of a few images, which criteria without labels look at.
    run_of(prepared, config, method, stored=stored).fit()
    for path in tmp_path.rglob("beside/*.pt"):
        path.write_bytes(b"damaged")
    run_of(prepared, config, method, stored=stored).fit()
    run = run_of(prepared, config, method, stored=stored)
    # On a GPU the next batch is read before one is used.
    featurise = run.featurise
    monkeypatch.setattr(featurise, "ahead", lambda some: one_ahead(map(featurise.begun, some)))
    run.featurise.backbone = Resting()  # type: ignore[assignment]
    run.fit()
    assert history(run) == history(plain)
    # Pictures need pixels, which nobody reads for a method on stored features.
    run.truth = None
    shown = run.score("val", refit=False).examples.pixels
    assert shown
    assert all(one.size for one in shown)


def history(run: Run) -> list[dict[str, float]]:
    """What was reported in every epoch, but for times."""
    assert isinstance(run.context, PlainContext)
    return [
        {name: value for name, value in epoch.items() if "second" not in name}
        for epoch in run.context.history
    ]
