"""The feature store: features of a split under a frozen backbone, computed once, read by all.

What a command asks before it starts trials, and what a trial opens. `obtain` gives an entry that
is complete: it is here, or in the shared store, or another process is just computing it, or it is
computed now. `decide` says before that whether it is worth it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import sweep_unfinished
from usseg_ray.core.types import MaskRecipe
from usseg_ray.features.store.blocks import (
    drop_damaged,
    list_parts,
    list_shards,
    load_entry_manifest,
    missing_shards,
    save_entry_manifest,
)
from usseg_ray.features.store.entry import FeatureEntry
from usseg_ray.features.store.extraction import FeatureRequest, Features, write_missing
from usseg_ray.features.store.folder import FeatureFolder, default_folder, unwritable
from usseg_ray.features.store.masks import write_masks
from usseg_ray.features.store.recipe import Part, masks_part
from usseg_ray.features.store.rule import Decision, Mode, decide
from usseg_ray.features.store.shared import SharedStore

SHARED = "USSEG_FEATURES_SHARED"


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class FeatureStore:
    """Entries in a folder of this machine and, where there are several machines, in a shared place.

    Attributes:
        folder: What is read; on a cluster a cache of the shared store.
        shared: Where every machine finds what one of them computed.
        say: Told in a sentence what happens to entries.
    """

    folder: FeatureFolder
    shared: SharedStore | None = None
    say: Callable[[str], None] = _silent

    def open(
        self, key: str, parts: tuple[Part, ...], masks: MaskRecipe | None = None
    ) -> FeatureEntry:
        """Opens an entry that was obtained before, as a trial does.

        Args:
            key: Which.
            parts: What is read of it.
            masks: Masks that are read too if they are there, whole.

        Returns:
            The entry, to be closed by the caller; it is not removed until then.

        Raises:
            UserError: It is incomplete or damaged.
        """
        if masks is not None and (entry := self._there(key, (*parts, masks_part(masks)))):
            return entry
        entry = self._there(key, parts)
        if entry is None:
            raise UserError(
                f"{self.folder.path(key)}: the features are not, or no longer, complete. Start the "
                "sweep again: it computes what is missing."
            )
        return entry

    def _there(self, key: str, parts: tuple[Part, ...]) -> FeatureEntry | None:
        entry = self.find(key, parts)
        if entry is None and self.shared is not None:
            entry = self._fetched(key, parts)
        return entry

    def obtain_masks(
        self,
        wanted: FeatureRequest,
        recipe: MaskRecipe,
        on_rows: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Has the masks of an entry found that was obtained, where they are not there.

        Args:
            wanted: Which features.
            recipe: Which masks of them.
            on_rows: Told how many rows were looked at, after each few.

        Raises:
            UserError: The disk is full.
        """
        key, parts = wanted.entry.key, (masks_part(recipe),)
        if entry := self.find(key, parts):
            entry.close()
            return
        waiting = f"waiting: another process finds masks in {wanted.name}"
        with self.folder.building(key, lambda: self.say(waiting)):
            self._repair(key)
            self._fetch(key, parts)
            entry = self.folder.open(key, ("tokens",))
            if entry is None:
                return  # damaged since; whoever opens it says so
            with entry:
                try:
                    write_masks(entry, recipe, on_rows)
                    if self.shared is not None:
                        self.shared.push(self.folder, key)
                except OSError as error:
                    raise unwritable(self.folder.root, error) from error

    def obtain(
        self,
        wanted: FeatureRequest,
        features: Features,
        on_rows: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> FeatureEntry:
        """Gives a complete entry, computing what is missing of it.

        Args:
            wanted: Which features.
            features: Computes them: `features_here`, or `ray_features` on a cluster.
            on_rows: Told how many rows are there, of how many, after every shard.

        Returns:
            The entry, to be closed by the caller; it is not removed until then.

        Raises:
            UserError: There is no room for it, or the disk is full.
        """
        key, parts = wanted.entry.key, wanted.parts
        if entry := self.find(key, parts):
            return entry
        waiting = f"waiting: another process computes {wanted.name}"
        with self.folder.building(key, lambda: self.say(waiting)):
            self._repair(key)
            self._fetch(key, parts)
            if entry := self.folder.open(key, parts):
                return entry
            with self._claimed(key, lambda: self.say(waiting)):
                # Whoever was waited for has put it there.
                self._fetch(key, parts)
                self._compute(wanted, features, on_rows)
            entry = self.folder.open(key, parts)
        if entry is None:
            raise RuntimeError(f"{key} is incomplete although it was computed")
        return entry

    def decide(
        self, wanted: FeatureRequest, *, passes: float, promised: int = 0, mode: Mode = "auto"
    ) -> Decision:
        """Decides whether features that are not here are stored.

        Args:
            wanted: Which features.
            passes: Walks over all rows that are expected of all trials.
            promised: Bytes that others are to have.
            mode: The user's word.

        Returns:
            The decision, with the sentence for the screen.

        Raises:
            UserError: The user insists on a store that has no room.
        """
        return decide(
            wanted.name,
            wanted.num_bytes,
            passes=passes,
            room=max(0, self.folder.room(wanted.entry.key) - promised),
            reserve=self.folder.reserve,
            mode=mode,
        )

    def find(self, key: str, parts: tuple[Part, ...]) -> FeatureEntry | None:
        """Opens an entry here if it is complete and its bytes are those that were written."""
        entry = self.folder.open(key, parts)
        if entry is None:
            return None
        shards = [shard for part in parts for shard in list_shards(entry.folder, part).values()]
        # Not removed here: another process may be about to replace them.
        if not drop_damaged(entry.folder, shards, keep=True):
            return entry
        entry.close()
        return None

    def _fetched(self, key: str, parts: tuple[Part, ...]) -> FeatureEntry | None:
        with self.folder.building(key):
            self._repair(key)
            self._fetch(key, parts)
            return self.folder.open(key, parts)

    def _repair(self, key: str) -> None:
        path = self.folder.path(key)
        sweep_unfinished(path)
        shards = [shard for part in list_parts(path) for shard in list_shards(path, part).values()]
        for shard in drop_damaged(path, shards):
            self.say(f"shard {shard.name} of {key} is damaged: computed again")

    def _fetch(self, key: str, parts: tuple[Part, ...]) -> None:
        if self.shared is None:
            return
        path = self.folder.path(key)
        try:
            manifest = self.shared.manifest(key)
            if manifest is None:
                return
            self._make_room(key, manifest.num_bytes(parts))
            here = load_entry_manifest(path)
            if here is not None and here.images_per_shard != manifest.images_per_shard:
                # Cut in another way: none of what is here fits what is there.
                shutil.rmtree(path)
            save_entry_manifest(manifest, path)
            self.shared.fetch(self.folder, key, parts, self.say)
        except OSError as error:
            raise UserError(
                f"{key}: its shards cannot be copied from the shared place to {self.folder.root} "
                f"({error}). What was copied is kept; run again."
            ) from error

    @contextmanager
    def _claimed(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        if self.shared is None:
            yield
            return
        with self.shared.claimed(key, on_wait):
            yield

    def _compute(
        self, wanted: FeatureRequest, features: Features, on_rows: Callable[[int, int], None]
    ) -> None:
        path = self.folder.path(wanted.entry.key)
        # Shards that are there decide how many rows the others have.
        entry = load_entry_manifest(path) or wanted.entry
        missing = missing_shards(path, entry, wanted.parts)
        if not missing:
            return
        self._make_room(entry.key, entry.num_bytes(wanted.parts))
        try:
            save_entry_manifest(entry, path)
        except OSError as error:
            raise unwritable(self.folder.root, error) from error
        absent = tuple(part for part in wanted.parts if any(part in p for p in missing.values()))
        done = (entry.num_shards - len(missing)) * entry.rows_per_shard

        def written(rows: int) -> None:
            nonlocal done
            done += rows
            on_rows(min(done, entry.rows), entry.rows)

        write_missing(
            self.folder, replace(wanted, entry=entry, parts=absent), missing, features, written
        )
        if self.shared is not None:
            try:
                self.shared.push(self.folder, entry.key)
            except OSError as error:
                raise UserError(
                    f"{entry.key}: computed, and kept in {self.folder.root}, but it cannot be "
                    f"copied to the shared place ({error}). Run again."
                ) from error

    def _make_room(self, key: str, num_bytes: int) -> None:
        for kept in self.folder.make_room(key, num_bytes):
            self.say(f"removed {kept.manifest.key} ({kept.manifest.says['data']}) to make room")


def default_store(say: Callable[[str], None] = _silent) -> FeatureStore:
    """Gives the store of the environment: a folder here, and a shared place if one is named.

    Args:
        say: Told what happens to entries.

    Raises:
        UserError: The shared place cannot be reached.
    """
    uri = os.environ.get(SHARED)
    return FeatureStore(default_folder(), SharedStore.at(uri) if uri else None, say)
