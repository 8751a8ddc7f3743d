"""A folder of images, or a published data set, becomes a prepared set.

It is walked once per data set, before an image's path begins: `layouts` finds the files, every
file is decoded once to be sure that it can be, and `shards` takes its bytes as they are. The unit
of work is a whole shard, planned before anything starts: Ray only spreads the plans over the
cluster. So the shards are the same bytes whatever runs where, and no row is lost or doubled.
"""

import hashlib
import json
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, replace
from itertools import islice
from pathlib import Path

import ray

from usseg_ray.cluster.join import local_ray
from usseg_ray.core.cli import OnProgress
from usseg_ray.core.errors import UserError, redacted
from usseg_ray.core.files import resolve, write_whole_at
from usseg_ray.core.lock import alone_in
from usseg_ray.core.sources import check_name
from usseg_ray.data.library import cache_root, is_prepared
from usseg_ray.data.manifest import (
    Manifest,
    SplitInfo,
    load_manifest,
    save_manifest,
    split_totals,
)
from usseg_ray.data.scaling import Sight
from usseg_ray.data.shards import ROWS_PER_SHARD, without_strays, write_shard
from usseg_ray.prepare import sets
from usseg_ray.prepare.entries import Entry, ImageSet
from usseg_ray.prepare.inspection import Inspector, Problem
from usseg_ray.prepare.layouts import discover
from usseg_ray.prepare.meaning import Meaning, check_values
from usseg_ray.prepare.survey import survey
from usseg_ray.prepare.tally import QUARANTINE, ShardOutcome, Tally
from usseg_ray.prepare.windows import cut_large

_LOOKS = 32
"""Labels that are looked at before the work begins, so that what cannot be meant is told early."""

_END_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Patterns:
    """What the command says of a folder of one's own; see `layouts.discover`.

    Attributes:
        images: Pattern of the images.
        labels: Pattern of the labels.
        classes: What label values are.
    """

    images: str | None = None
    labels: str | None = None
    classes: str | None = None


@dataclass(frozen=True)
class Preparation:
    """A prepared set, and how it came about.

    Attributes:
        manifest: What the set is.
        out: Where it lies, folder or URI.
        fresh: False if it lay there already and nothing was done.
        images_per_second: Over 20 to 90 % of the images, that is without start and end; `None`
            if nothing was done or the set has too few shards to tell.
        notes: Lines for the user: what was passed over, what may not be meant.
    """

    manifest: Manifest
    out: str
    fresh: bool
    images_per_second: float | None
    notes: tuple[str, ...] = ()


def prepare(
    source: str | Path,
    out: str | Path | None = None,
    *,
    name: str | None = None,
    dataset: str | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    max_bad_share: float = 0.05,
    overwrite: bool = False,
    patterns: Patterns = Patterns(),
    bands: tuple[str, ...] = (),
    on_progress: OnProgress | None = None,
) -> Preparation:
    """Checks a folder of images and writes it as a prepared set.

    An image that does not decode is left out; a label that does not, or does not fit its image or
    its classes, is left out and its image kept. Both are listed in `quarantine.jsonl` beside the
    manifest. Where the source names no classes, they are counted in the labels.

    Args:
        source: The folder, in a layout of `layouts`, or in that of a published set; every node
            must see it under this path.
        out: Folder or URI of the set; a folder of the set's name under `cache_root()` if unset.
        name: What the set is called; what `dataset.json` or the folder says if unset.
        dataset: One of `prepare.sets`, if the source is that published set.
        rows_per_shard: Images of every shard but a split's last.
        max_bad_share: Largest share of bad images and labels that is passed over, from 0 to 1.
        overwrite: Whether to replace another set in `out`. It stays valid until this one is.
        patterns: What the command says of a folder of one's own.
        bands: Which bands of TIFF files are seen, as `data.scaling.Sight`.
        on_progress: Called after each shard with the images done, what of it was bad, and the
            images in all.

    Returns:
        The set; unchanged and at once if `out` holds it already.

    Raises:
        UserError: The source cannot be used, `out` holds another set or another process writes it,
            or too much is bad.
    """
    if dataset is None:
        images = discover(source, **vars(patterns))
    else:
        images = sets.find_set(dataset).discover(source)
    name = images.name if name is None else check_name(name, "--name")
    return write_set(
        replace(images, name=name),
        str(Path(source).resolve()),
        _absolute(cache_root() / name if out is None else out),
        rows_per_shard=rows_per_shard,
        max_bad_share=max_bad_share,
        overwrite=overwrite,
        bands=bands,
        on_progress=on_progress,
    )


def write_set(
    images: ImageSet,
    source: str,
    out: str,
    *,
    rows_per_shard: int = ROWS_PER_SHARD,
    max_bad_share: float = 0.05,
    overwrite: bool = False,
    bands: tuple[str, ...] = (),
    on_progress: OnProgress | None = None,
) -> Preparation:
    """Checks images that were found and writes them as a prepared set.

    Args:
        images: What was found.
        source: Where, for the manifest.
        out: Absolute folder or URI of the set.
        rows_per_shard: As `prepare` has it.
        max_bad_share: As `prepare` has it.
        overwrite: As `prepare` has it.
        bands: As `prepare` has it.
        on_progress: As `prepare` has it.

    Returns:
        As `prepare`.

    Raises:
        UserError: As `prepare`.
    """
    images = cut_large(images)
    identity = fingerprint(images, rows_per_shard, bands)
    if not overwrite and is_prepared(out):
        there = _the_same(out, identity)
        notes = (*images.notes, *there.sight.lines)
        return Preparation(there, out, fresh=False, images_per_second=None, notes=notes)
    sight = survey(images, bands)
    _look(images, sight)
    tally = Tally(len(images.entries), max_bad_share, on_progress)
    try:
        with alone_in(out, "this set"), without_strays(out):
            _run(_plan(images, rows_per_shard), images.meaning, sight, out, tally)
            values = check_values(tally.values, images.meaning)
            notes = (*images.notes, *sight.lines, *values, *tally.notes())
            manifest = _assemble(images, source, identity, sight, tally)
            save_manifest(manifest, out)
    except OSError as error:
        raise _unwritable(out, error) from None
    return Preparation(manifest, out, fresh=True, images_per_second=tally.rate(), notes=notes)


def _absolute(out: str | Path) -> str:
    """Tasks run in folders of their own, where a relative path would mean another place."""
    return str(out) if "://" in str(out) else str(Path(out).expanduser().absolute())


def _the_same(out: str, fingerprint: str) -> Manifest:
    before = load_manifest(out)
    if before.fingerprint != fingerprint:
        raise UserError(
            f"--out {out} holds another set ({before.name!r} from {before.source}), or this one "
            "before its files or options changed. Choose another folder, or --overwrite it."
        )
    return before


def fingerprint(
    images: ImageSet, rows_per_shard: int = ROWS_PER_SHARD, bands: tuple[str, ...] = ()
) -> str:
    """Makes a hash that changes with any file's name, size or time, and what else makes shards.

    Args:
        images: What was found.
        rows_per_shard: Images of a shard.
        bands: As `prepare` has it.
    """

    def state(path: str | None) -> tuple[int, int] | None:
        if path is None:
            return None
        try:
            found = Path(path).stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    identity = hashlib.sha256()
    about = [images.name, images.classes, images.ignore_index, images.palette, rows_per_shard]
    about += [images.things, images.class_of and sorted(images.class_of.items())]
    if images.colours:
        about.append(sorted(images.colours.items()))
    if bands:
        about.append(bands)
    identity.update(json.dumps(about).encode())
    for entry in images.entries:
        files = [entry.split, entry.image, state(entry.image), state(entry.label)]
        if entry.cut is not None:
            files += [entry.id, astuple(entry.cut)]
        identity.update(json.dumps(files).encode())
    return identity.hexdigest()


@dataclass(frozen=True)
class _Plan:
    """A shard to be written."""

    number: int
    split: str
    index: int
    entries: tuple[Entry, ...]


def _plan(images: ImageSet, rows_per_shard: int) -> list[_Plan]:
    """Cuts every split into shards."""
    parts = [
        (split, index, entries[start : start + rows_per_shard])
        for split, entries in images.splits.items()
        for index, start in enumerate(range(0, len(entries), rows_per_shard))
    ]
    return [_Plan(number, *part) for number, part in enumerate(parts)]


def _look(images: ImageSet, sight: Sight) -> None:
    """Refuses labels that cannot be meant after a few of them, before hours of work."""
    labelled = [entry for entry in images.entries if entry.label is not None]
    spread = {place * len(labelled) // _LOOKS: None for place in range(_LOOKS)} if labelled else {}
    order = [*spread, *(place for place in range(len(labelled)) if place not in spread)]
    inspector = Inspector(images.meaning, sight)
    seen = 0
    # As long as there is void and one class, the others are looked at too: it may be a rare one.
    while seen < len(order) and (seen < len(spread) or _one_beside_void(inspector, images)):
        for _ in inspector.rows([labelled[order[seen]]]):
            pass
        seen += 1
    several = len(inspector.values - {images.ignore_index}) > 1
    if several or seen == len(order):
        check_values(inspector.values, images.meaning)


def _one_beside_void(inspector: Inspector, images: ImageSet) -> bool:
    return images.ignore_index in inspector.values and len(inspector.values) <= 2


def _run(plans: list[_Plan], meaning: Meaning, sight: Sight, out: str, tally: Tally) -> None:
    # Fails now rather than after the work, if the place cannot be written.
    _write_quarantine(out, [])
    try:
        with local_ray(), closing(_outcomes(plans, meaning, sight, out)) as outcomes:
            for outcome in outcomes:
                if outcome.failure:
                    raise _unwritable(out, outcome.failure)
                tally.add(outcome)
                tally.check(out)
    finally:
        # If this cannot be written, neither can the manifest, and that is told.
        with suppress(OSError):
            _write_quarantine(out, tally.problems)


def _outcomes(
    plans: list[_Plan], meaning: Meaning, sight: Sight, out: str
) -> Generator[ShardOutcome, None, None]:
    """Has Ray write shards, a few more at a time than there are processors, and ends all of it."""
    ahead = 2 * int(ray.cluster_resources().get("CPU", 1)) + 2
    write = ray.remote(_write_planned)
    waiting = iter(plans)
    running = [write.remote(plan, meaning, sight, out) for plan in islice(waiting, ahead)]
    try:
        while running:
            (done,), running = ray.wait(running)
            running += [write.remote(plan, meaning, sight, out) for plan in islice(waiting, 1)]
            yield ray.get(done)
    finally:
        # What still writes would leave shards behind.
        for task in running:
            ray.cancel(task, force=True)
        if running:
            ray.wait(running, num_returns=len(running), timeout=_END_TIMEOUT_S)


def _unwritable(out: str, error: object) -> UserError:
    return UserError(f"--out {out}: cannot be written ({error}). Free or choose another place.")


def _write_planned(plan: _Plan, meaning: Meaning, sight: Sight, out: str) -> ShardOutcome:
    """Checks and writes one shard; runs as a Ray task."""
    inspector = Inspector(meaning, sight)
    filesystem, root = resolve(out)
    shard, failure = None, ""
    try:
        rows = inspector.rows(plan.entries)
        shard = write_shard(filesystem, root, plan.split, plan.index, rows)
    except OSError as error:
        failure = str(error)
    return ShardOutcome(
        plan.number,
        len(plan.entries),
        shard,
        inspector.problems,
        inspector.values,
        inspector.turned,
        failure,
    )


def _write_quarantine(out: str, problems: list[Problem]) -> None:
    ordered = sorted(problems, key=lambda problem: (problem.split, problem.id))
    filesystem, root = resolve(out)
    lines = "".join(json.dumps(vars(problem)) + "\n" for problem in ordered)
    write_whole_at(filesystem, f"{root}/{QUARANTINE}", lines)


def _assemble(
    images: ImageSet, source: str, fingerprint: str, sight: Sight, tally: Tally
) -> Manifest:
    shards = [shard for _, shard in sorted(tally.shards.items())]
    totals = split_totals(shards)
    for split in images.splits:
        if split not in totals:
            raise UserError(
                f"No image of split {split!r} can be used; the first: "
                f"{next(p.reason for p in tally.problems if p.split == split)}."
            )
    counts = {
        split: SplitInfo(
            **total.model_dump(include={"rows", "labelled"}),
            bad_images=sum((p.split, p.kind) == (split, "image") for p in tally.problems),
            bad_labels=sum((p.split, p.kind) == (split, "label") for p in tally.problems),
            origin=images.origins.get(split, ""),
            expected=images.expected.get(split),
        )
        for split, total in totals.items()
    }
    top = max(tally.values - {images.ignore_index}, default=-1)
    counted = tuple(f"class_{index}" for index in range(top + 1))
    return Manifest(
        name=images.name,
        classes=images.classes or counted,
        ignore_index=images.ignore_index,
        palette=images.palette,
        things=images.things,
        splits=counts,
        shards=tuple(shards),
        source=redacted(source),
        sight=sight,
        fingerprint=fingerprint,
    )
