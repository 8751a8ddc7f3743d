"""Computes the features that an entry of the store lacks, shard by shard, in a plain process.

Between the reading of rows (`data.reading`) and `blocks`. A sweep hands in Ray's actors in
place of `features_here`; both give the same rows in the same order, and the process that asked
writes them, so that a folder on one machine's disk is enough.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Crops, Frame
from usseg_ray.data.blocks import Block, Taker, regroup
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.plans import Piece, cut, row_groups
from usseg_ray.data.reading import stream_here
from usseg_ray.features.backbones import Backbone, build_backbone
from usseg_ray.features.store.blocks import is_full, write_feature_shard
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.recipe import (
    SHARD_BYTES,
    Arithmetic,
    EntryManifest,
    Part,
    Views,
    make_entry_manifest,
    make_recipe,
    needs_of,
)
from usseg_ray.ops.photometric import DRAWN, photometric_views

BATCH_ROWS = 32


@dataclass(frozen=True)
class FeatureRequest:
    """Features that somebody needs: of which images, by what, and what of them.

    Attributes:
        root: URI of the prepared set.
        data: Its manifest.
        split: Which split.
        backbone: The frozen network's settings.
        entry: What the store will say of them.
        parts: What is needed of every row.
    """

    root: str
    data: Manifest
    split: str
    backbone: BackboneConfig
    entry: EntryManifest
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """Says on the screen which features these are."""
        recipe = self.entry.recipe
        crops = f", {recipe.crops.policy} crops" if recipe.crops else ""
        views = f", {recipe.draws} photometric draws" if recipe.views else ""
        return (
            f"features of {self.data.name}/{self.split} by {recipe.backbone.name} "
            f"at {recipe.frame.size} px{crops}{views}"
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows."""
        return self.entry.num_bytes(self.parts)

    def pieces(self, shards: Mapping[int, object] | range) -> list[Piece]:
        """Plans the reading of all images of some shards, in order."""
        groups = row_groups(self.data, self.split)
        return [piece for shard in shards for piece in cut(groups, *self.entry.images_of(shard))]


Features = Callable[[FeatureRequest, list[Piece]], Iterator[Block]]
"""Computes the rows of pieces in order: blocks of `id` and, for each part, (n, ...) float16."""


def want(
    root: str,
    data: Manifest,
    split: str,
    config: BackboneConfig,
    backbone: Backbone,
    *,
    frame: Frame,
    crops: Crops | None = None,
    views: Views | None = None,
    parts: tuple[Part, ...] = ("tokens",),
    arithmetic: Arithmetic = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> FeatureRequest:
    """Says which features are needed; the arguments are those of `recipe`'s makers.

    Raises:
        UserError: They cannot be stored.
    """
    if not data.splits.get(split) or not data.splits[split].rows:
        data.shards_of(split)  # tells of a split that does not exist
        raise UserError(f"split {split!r} of {data.name!r} has no images to store features of.")
    if parts != ("tokens",) and not backbone.spec.has_attention:
        raise UserError(f"{config.name} has no attention: {', '.join(parts[1:])} cannot be stored.")
    recipe = make_recipe(
        config,
        backbone,
        data,
        split,
        frame=frame,
        crops=crops,
        views=views,
        arithmetic=arithmetic,
    )
    entry = make_entry_manifest(recipe, backbone, data, split, shard_bytes=shard_bytes)
    return FeatureRequest(root, data, split, config, entry, parts)


class Extractor:
    """Turns blocks of shown images into blocks of stored rows; one is an actor's whole state.

    Args:
        wanted: Which features.
        device: Where to compute.
        threads: CPU threads of this process; left alone if unset.
        backbone: The frozen network; built here if unset.
    """

    def __init__(
        self,
        wanted: FeatureRequest,
        device: str,
        threads: int | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._wanted, self._device = wanted, torch.device(device)
        self._backbone = (backbone or build_backbone(wanted.backbone)).to(self._device)

    @torch.no_grad()
    def __call__(self, block: Block) -> Block:
        """Computes the features of rows.

        Args:
            block: `id` (n,) and `image` (n, 3, S, S) uint8, rows of one image one after the other.

        Returns:
            `id` and the parts, each draw of a row after the other.
        """
        pixels = torch.from_numpy(np.require(block["image"], requirements=["C", "W"]))
        normalised = self._backbone.normalise(pixels.to(self._device).float() / 255)
        views = self._wanted.entry.recipe.views
        if views is None:
            return {"id": block["id"], **self._parts(normalised)}
        drawn = [
            self._parts(photometric_views(normalised, _names(block), views.jitter, DRAWN, draw))
            for draw in range(views.draws)
        ]
        found = {name: _interleaved([parts[name] for parts in drawn]) for name in drawn[0]}
        return {"id": block["id"].repeat(views.draws), **found}

    def _parts(self, normalised: Float[Tensor, "n 3 S S"]) -> dict[str, np.ndarray]:
        found: dict[str, Tensor | None] = {}
        halved = self._wanted.entry.recipe.arithmetic == "bfloat16"
        for needs in needs_of(self._wanted.parts):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=halved):
                features = self._backbone(normalised, needs)
            found["tokens"] = features.tokens
            if needs.attention:
                found[f"saliency_{needs.attention}"] = features.saliency
            if needs.local_attention:
                found["local"] = features.local
        asked = ((part, found[part]) for part in self._wanted.parts)
        return {part: values.half().cpu().numpy() for part, values in asked if values is not None}


def _names(block: Block) -> list[str]:
    """Keys the draws of every row; crops of one image differ in colour."""
    crops = block.get("crop", np.zeros(len(block["id"]), np.int64))
    return [f"{name}/{crop}" for name, crop in zip(block["id"], crops, strict=True)]


def _interleaved(drawn: list[np.ndarray]) -> np.ndarray:
    return np.stack(drawn, 1).reshape(-1, *drawn[0].shape[1:])


def features_here(backbone: Backbone, device: str) -> Features:
    """Computes features in this process, on a device.

    A thread decodes the next batch while one is computed: on a few cores, and on a GPU, what waits
    for the decoder is a good part of the time.
    """

    def features(wanted: FeatureRequest, pieces: list[Piece]) -> Iterator[Block]:
        extractor = Extractor(wanted, device, backbone=backbone)
        shown = regroup(stream_here(wanted.root, pieces, wanted.entry.recipe.showing), BATCH_ROWS)
        with ThreadPoolExecutor(1, "usseg-decoding") as decoding:
            coming = decoding.submit(next, shown, None)
            while (block := coming.result()) is not None:
                coming = decoding.submit(next, shown, None)
                yield extractor(block)

    return features


def write_missing(
    folder: FeatureFolder,
    wanted: FeatureRequest,
    missing: Mapping[int, tuple[Part, ...]],
    features: Features,
    on_rows: Callable[[int], None] = lambda _: None,
) -> None:
    """Computes and writes what an entry lacks; whoever calls has its building lock.

    Args:
        folder: Where the entry lies.
        wanted: What it is of.
        missing: For each shard the parts that lack it.
        features: Computes them.
        on_rows: Told how many rows were written, after each shard.

    Raises:
        UserError: The disk is full; what was written stays, and the next run goes on from there.
    """
    entry, path = wanted.entry, folder.path(wanted.entry.key)
    with closing(_closable(features(wanted, wanted.pieces(missing)))) as blocks:
        taker = Taker(blocks)
        for written, (shard, parts) in enumerate(missing.items()):
            first, last = entry.images_of(shard)
            rows = (last - first) * entry.rows_per_image
            taken = list(taker.take(rows))
            ids = [str(name) for block in taken for name in block["id"]]
            for part in parts:
                try:
                    write_feature_shard(
                        path, part, shard, ids, np.concatenate([b[part] for b in taken])
                    )
                except OSError as error:
                    raise _unwritable(wanted, folder, error, len(missing) - written) from error
            on_rows(rows)


def _closable(blocks: Iterator[Block]) -> Generator[Block, None, None]:
    # One that Ray computes ends its actors when it is closed, a map cannot be.
    yield from blocks


def _unwritable(
    wanted: FeatureRequest, folder: FeatureFolder, error: OSError, shards_left: int
) -> UserError:
    done = wanted.entry.num_shards - shards_left
    why = "the disk is full" if is_full(error) else f"cannot be written ({error})"
    return UserError(
        f"{folder.root}: {why}; {done} of {wanted.entry.num_shards} shards of {wanted.name} are "
        f"kept. Free room and run again, which goes on from there, or remove them: "
        f"python -m usseg_ray.features rm {wanted.entry.key}"
    )
