"""How a process finds the stored features that its job names."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import fields

import torch

from usseg_ray.core.records import DamagedError
from usseg_ray.core.types import FeatureMap, Needs, Rows
from usseg_ray.core.views import FixedView
from usseg_ray.engine.checkpoint import load_whole, save_whole
from usseg_ray.features.featuriser import FeatureFinder
from usseg_ray.features.store.entry import FeatureEntry
from usseg_ray.features.store.recipe import parts_of
from usseg_ray.features.store.store import FeatureStore, default_store
from usseg_ray.trials.job import StoredView

VARIANTS = "beside"
"""Folder in an entry's own for features of a few rows in a variant of its view."""


class _EntryFinder:
    """Finds features in open entries, as the featuriser asks for them."""

    def __init__(
        self, entries: Mapping[tuple[str, FixedView], FeatureEntry], device: torch.device
    ) -> None:
        self._entries, self._device = entries, device

    @property
    def views(self) -> Collection[tuple[str, FixedView]]:
        return self._entries.keys()

    def __call__(self, rows: Rows, needs: Needs) -> FeatureMap | None:
        begun = self.begin(rows, needs)
        return None if begun is None else begun()

    def begin(self, rows: Rows, needs: Needs) -> Callable[[], FeatureMap] | None:
        entry = self._entries.get((rows.split, rows.view))
        if entry is None or not set(parts_of(needs)) <= set(entry.parts):
            return None
        draws = 0 if rows.draws is None else rows.draws.numpy()
        found = entry.rows(rows.numbers.numpy(), rows.crops.numpy(), draws)
        return entry.begin(found, self._device)

    def variant(
        self, rows: Rows, needs: Needs, name: str, compute: Callable[[], FeatureMap]
    ) -> FeatureMap:
        entry = self._entries.get((rows.split, rows.view))
        if entry is None:
            return compute()
        asked = (name, rows.numbers.tolist(), parts_of(needs))
        file = entry.folder / VARIANTS / f"{hashlib.sha256(repr(asked).encode()).hexdigest()}.pt"
        with suppress(FileNotFoundError, DamagedError):
            return FeatureMap(**load_whole(file, self._device, "It is computed again."))
        found = compute()
        parts = {one.name: getattr(found, one.name) for one in fields(found)}
        # What cannot be kept is computed again.
        with suppress(OSError):
            save_whole(file, parts)
        return found


def open_stored(
    views: tuple[StoredView, ...],
    needs: Needs,
    device: torch.device,
    store: FeatureStore | None = None,
) -> FeatureFinder | None:
    """Opens what is stored for a job.

    Args:
        views: From the job.
        needs: What its method reads beside tokens.
        device: Where features go.
        store: Which store; the environment's if unset.

    Returns:
        What finds features; `None` where nothing is stored.
    """
    if not views or not needs.storable:
        return None
    store, parts = store or default_store(), parts_of(needs)
    entries = {
        # Views hold tokens alone, whatever else a method reads of the rows themselves.
        (one.split, one.view): store.open(
            one.key, ("tokens",) if one.view.draws else parts, needs.masks
        )
        for one in views
    }
    return _EntryFinder(entries, device)
