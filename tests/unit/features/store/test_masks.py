"""Masks beside the tokens that they are of: found once, as anew, not believed when damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.features import IMAGES, NUM_SHARDS, obtain, wanted
from tests.unit.features.store.test_store import flip_a_bit
from usseg_ray.core.types import MaskRecipe
from usseg_ray.features.store.blocks import list_shards
from usseg_ray.features.store.entry import FeatureEntry
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.recipe import masks_part
from usseg_ray.features.store.shared import SharedStore
from usseg_ray.features.store.store import FeatureStore
from usseg_ray.ops.principal_masks import find_masks

CPU = torch.device("cpu")
RECIPES = [
    MaskRecipe(psi=0.6, explained=0.8, centre=True, context=0.75),
    MaskRecipe(psi=0.4, explained=0.95, centre=False, context=None),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tiny.write(tmp_path / "set")
    return tmp_path / "set"


def store_of(folder: Path, root: Path, shared: Path | None = None) -> FeatureStore:
    """A store that has the tokens."""
    obtain(folder, wanted(root)).close()
    there = SharedStore.at(str(shared)) if shared else None
    return FeatureStore(FeatureFolder(folder), there)


def opened(store: FeatureStore, root: Path, recipe: MaskRecipe) -> FeatureEntry:
    return store.open(wanted(root).entry.key, ("tokens",), recipe)


@pytest.mark.parametrize("recipe", RECIPES)
def test_they_are_those_that_are_found_anew_in_any_batch(
    root: Path, tmp_path: Path, recipe: MaskRecipe
) -> None:
    store, rows = store_of(tmp_path / "store", root), list[int]()
    store.obtain_masks(wanted(root), recipe, rows.append)
    assert sum(rows) == IMAGES
    for seen in ([5], [13, 0, 7, 8], list(range(IMAGES))):
        found = opened(store, root, recipe).feature_map(np.array(seen), CPU)
        assert found.masks is not None
        assert found.masks.dtype == torch.int64
        assert torch.equal(found.masks, find_masks(found.tokens, recipe))
        assert found.masks.max() > 1


def test_each_recipe_has_its_own_and_none_is_found_twice(root: Path, tmp_path: Path) -> None:
    store, rows = store_of(tmp_path / "store", root), list[int]()
    first, second = RECIPES
    for recipe in (first, second, first):
        store.obtain_masks(wanted(root), recipe, rows.append)
    assert sum(rows) == 2 * IMAGES
    parts = {masks_part(first), masks_part(second)}
    (kept,) = store.folder.entries()
    assert set(kept.complete) == {"tokens", *parts}
    assert opened(store, root, first).parts == ("tokens", masks_part(first))
    other = first.model_copy(update={"psi": 0.5})
    assert opened(store, root, other).parts == ("tokens",)


def test_a_damaged_shard_is_not_believed_and_found_again_alone(root: Path, tmp_path: Path) -> None:
    store, recipe, rows = store_of(tmp_path / "store", root), RECIPES[0], list[int]()
    store.obtain_masks(wanted(root), recipe)
    entry = opened(store, root, recipe)
    before = entry.read(masks_part(recipe), np.arange(IMAGES))
    shards = list_shards(entry.folder, masks_part(recipe))
    assert len(shards) == NUM_SHARDS
    entry.close()
    flip_a_bit(shards[1].path)
    assert opened(store, root, recipe).feature_map(np.arange(3), CPU).masks is None
    store.obtain_masks(wanted(root), recipe, rows.append)
    assert sum(rows) == 3
    after = opened(store, root, recipe).read(masks_part(recipe), np.arange(IMAGES))
    assert torch.equal(after, before)


def test_another_machine_reads_them_from_the_shared_place(root: Path, tmp_path: Path) -> None:
    one, recipe = store_of(tmp_path / "one", root, tmp_path / "shared"), RECIPES[0]
    one.obtain_masks(wanted(root), recipe)
    other = FeatureStore(
        FeatureFolder(tmp_path / "other"), SharedStore.at(str(tmp_path / "shared"))
    )
    here, there = (opened(one, root, recipe), opened(other, root, recipe))
    rows = np.arange(IMAGES)
    part = masks_part(recipe)
    assert torch.equal(there.read(part, rows), here.read(part, rows))
