"""A folder of images, or a published data set, becomes a prepared set.

It is walked once per data set, before an image's path begins: `datasets` finds the files, every
file is decoded once to be sure that it can be, and `shards` takes its bytes as they are. The unit
of work is a whole shard, planned before anything starts: Ray Data only spreads the plans over the
cluster. So the shards are the same bytes whatever runs where, and no row is lost or doubled.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import ray.data

from usseg_ray.cluster.join import local_ray
from usseg_ray.cluster.ray_stream import ended, quiet
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import resolve, write_whole_at
from usseg_ray.data.library import cache_root, is_prepared
from usseg_ray.data.manifest import (
    Manifest,
    ShardInfo,
    SplitInfo,
    load_manifest,
    save_manifest,
    split_totals,
)
from usseg_ray.data.shards import ROWS_PER_SHARD, remove_strays, write_shard
from usseg_ray.prepare import sets
from usseg_ray.prepare.inspection import Inspector, Problem
from usseg_ray.prepare.layouts import Cut, Entry, ImageSet, discover

QUARANTINE = "quarantine.jsonl"
MIN_MARKS = 10


@dataclass(frozen=True)
class Prepared:
    """A prepared set, and how it came about.

    Attributes:
        manifest: What the set is.
        out: Where it lies, folder or URI.
        fresh: False if it lay there already and nothing was done.
        images_per_second: Over 20 to 90 % of the images, that is without start and end; `None`
            if nothing was done or the set has too few shards to tell.
    """

    manifest: Manifest
    out: str
    fresh: bool
    images_per_second: float | None


def prepare(
    source: str | Path,
    out: str | Path | None = None,
    *,
    name: str | None = None,
    dataset: str | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    max_bad_share: float = 0.05,
    overwrite: bool = False,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> Prepared:
    """Checks a folder of images and writes it as a prepared set.

    An image that does not decode is left out; a label that does not, or does not fit its image or
    its classes, is left out and its image kept. Both are listed in `quarantine.jsonl` beside the
    manifest. Where the source names no classes, they are counted in the labels.

    Args:
        source: The folder, in a layout of `datasets`, or in that of a published set; every node
            must see it under this path.
        out: Folder or URI of the set; a folder of the set's name under `cache_root()` if unset.
        name: What the set is called; what `dataset.json` or the folder says if unset.
        dataset: One of `benchmarks`, if the source is that published set.
        rows_per_shard: Images of every shard but a split's last.
        max_bad_share: Largest share of bad images and labels that is passed over, from 0 to 1.
        overwrite: Whether to replace another set in `out`. It stays valid until this one is.
        on_progress: Called after each shard with the images done, what of it was bad, and the
            images in all.

    Returns:
        The set; unchanged and at once if `out` holds it already.

    Raises:
        UserError: The source cannot be used, `out` holds another set, or too much is bad.
    """
    images = discover(source) if dataset is None else sets.get(dataset).discover(source)
    name = name or images.name
    out = _absolute(cache_root() / name if out is None else out)
    fingerprint = _fingerprint(images, name, rows_per_shard)
    if not overwrite and is_prepared(out):
        return Prepared(_the_same(out, fingerprint), out, fresh=False, images_per_second=None)
    tally = _Tally(len(images.entries), max_bad_share, on_progress)
    try:
        _run(_plan(images, rows_per_shard), images, out, tally)
        manifest = _assemble(images, name, str(Path(source).resolve()), fingerprint, tally)
        save_manifest(manifest, out)
    except OSError as error:
        raise _unwritable(out, error) from None
    finally:
        # Whichever manifest is in place now, the old or the new: its shards stay, no others.
        with suppress(OSError, UserError):
            remove_strays(out)
    return Prepared(manifest, out, fresh=True, images_per_second=tally.rate())


@dataclass
class _Tally:
    """What the tasks reported, in the order in which they ended."""

    total: int
    max_bad_share: float
    on_progress: Callable[[int, int, int], None] | None
    done: int = 0
    top_label: int = -1
    shards: dict[int, ShardInfo] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    marks: list[tuple[float, int]] = field(default_factory=list)

    def add(self, outcome: Mapping[str, Any]) -> None:
        self.done += outcome["images"]
        self.top_label = max(self.top_label, outcome["top_label"])
        self.problems += [Problem(**problem) for problem in json.loads(outcome["problems"])]
        if outcome["shard"]:
            self.shards[outcome["number"]] = ShardInfo.model_validate_json(outcome["shard"])
        self.marks.append((time.perf_counter(), self.done))
        if self.on_progress:
            self.on_progress(self.done, len(self.problems), self.total)

    def check(self, out: str) -> None:
        bad = len(self.problems)
        if bad <= self.max_bad_share * self.total:
            return
        worst = self.problems[0]
        raise UserError(
            f"{bad} of {self.total} images or labels are bad, more than --max-bad-share "
            f"{self.max_bad_share:g} allows; nothing was prepared.\n"
            f"The first: {worst.path}: {worst.reason}. More: {out}/{QUARANTINE}"
        )

    def rate(self) -> float | None:
        inner = [m for m in self.marks if 0.2 * self.total <= m[1] <= 0.9 * self.total]
        if len(inner) < MIN_MARKS:
            return None
        (start, first), (end, last) = inner[0], inner[-1]
        return (last - first) / (end - start)


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


def _fingerprint(images: ImageSet, name: str, rows_per_shard: int) -> str:
    """Changes with any file's name, size or time, and with what else decides the shards."""

    def state(path: str | None) -> tuple[int, int] | None:
        if path is None or not (file := Path(path)).exists():
            return None
        found = file.stat()
        return found.st_size, found.st_mtime_ns

    identity = hashlib.sha256()
    about = [name, images.classes, images.ignore_index, images.palette, rows_per_shard]
    about += [images.things, images.class_of and sorted(images.class_of.items())]
    identity.update(json.dumps(about).encode())
    for entry in images.entries:
        files = [entry.split, entry.image, state(entry.image), state(entry.label)]
        if entry.cut is not None:
            files += [entry.id, astuple(entry.cut)]
        identity.update(json.dumps(files).encode())
    return identity.hexdigest()


def _plan(images: ImageSet, rows_per_shard: int) -> list[dict[str, Any]]:
    """Cuts every split into shards, each described by plain columns."""
    plans: list[dict[str, Any]] = []
    for split, entries in images.splits.items():
        for index, start in enumerate(range(0, len(entries), rows_per_shard)):
            part = entries[start : start + rows_per_shard]
            plans.append(
                {
                    "number": len(plans),
                    "split": split,
                    "index": index,
                    "ids": [entry.id for entry in part],
                    "images": [entry.image for entry in part],
                    "labels": [entry.label or "" for entry in part],
                    "cuts": [json.dumps(entry.cut and asdict(entry.cut)) for entry in part],
                }
            )
    return plans


def _run(plans: list[dict[str, Any]], images: ImageSet, out: str, tally: _Tally) -> None:
    # Fails now rather than after the work, if the place cannot be written.
    _write_quarantine(out, [])
    settings = {
        "out": out,
        "num_classes": len(images.classes) or None,
        "ignore_index": images.ignore_index,
        "class_of": images.class_of,
    }
    try:
        # Ray Data's own settings, whatever the process did before.
        plain = ray.data.DataContext(enable_progress_bars=False)
        with local_ray(), quiet(), ray.data.DataContext.current(plain):
            # One block a plan: Ray Data would otherwise put several shards in one task.
            rows = ray.data.from_items(plans, override_num_blocks=len(plans))
            outcomes = rows.map(_write_planned, fn_kwargs=settings)
            with ended(outcomes, outcomes.iter_rows()) as written:
                for outcome in written:
                    if outcome["failure"]:
                        raise _unwritable(out, outcome["failure"])
                    tally.add(outcome)
                    tally.check(out)
    finally:
        # If this cannot be written, neither can the manifest, and that is told.
        with suppress(OSError):
            _write_quarantine(out, tally.problems)


def _unwritable(out: str, error: object) -> UserError:
    return UserError(f"--out {out}: cannot be written ({error}). Free or choose another place.")


def _write_planned(
    plan: Mapping[str, Any],
    out: str,
    num_classes: int | None,
    ignore_index: int,
    class_of: Mapping[int, int] | None,
) -> dict[str, Any]:
    """Checks and writes one shard; runs as a Ray task."""
    columns = zip(plan["ids"], plan["images"], plan["labels"], plan["cuts"], strict=True)
    entries = [
        Entry(key, plan["split"], image, label or None, cut and Cut(**cut))
        for key, image, label, cut in ((*names, json.loads(cut)) for *names, cut in columns)
    ]
    inspector = Inspector(num_classes, ignore_index, class_of)
    filesystem, root = resolve(out)
    rows = inspector.rows(entries)
    shard, failure = None, ""
    try:
        shard = write_shard(filesystem, root, plan["split"], plan["index"], rows)
    except OSError as error:
        failure = str(error)
    return {
        "failure": failure,
        "number": plan["number"],
        "images": len(entries),
        "shard": shard.model_dump_json() if shard else "",
        "problems": json.dumps([vars(problem) for problem in inspector.problems]),
        "top_label": inspector.top_label,
    }


def _write_quarantine(out: str, problems: list[Problem]) -> None:
    ordered = sorted(problems, key=lambda problem: (problem.split, problem.id))
    filesystem, root = resolve(out)
    lines = "".join(json.dumps(vars(problem)) + "\n" for problem in ordered)
    write_whole_at(filesystem, f"{root}/{QUARANTINE}", lines)


def _assemble(
    images: ImageSet, name: str, source: str, fingerprint: str, tally: _Tally
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
    counted = tuple(f"class_{index}" for index in range(tally.top_label + 1))
    return Manifest(
        name=name,
        classes=images.classes or counted,
        ignore_index=images.ignore_index,
        palette=images.palette,
        things=images.things,
        splits=counts,
        shards=tuple(shards),
        source=source,
        fingerprint=fingerprint,
    )
