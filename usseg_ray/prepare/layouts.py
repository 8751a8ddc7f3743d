"""Where a user's images and labels lie: the first step of an image's path.

`discover` reads names and `dataset.json`, and of pictures a few headers at most, so that it answers
in a moment for millions of files and every mistake in the layout is told before any work. What it
finds goes to `write`, which checks the pictures and writes them to `shards`. The layouts stand in
`patterns`; what none of them reads is counted and said.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import check_name
from usseg_ray.data.decode import IMAGE_SUFFIXES
from usseg_ray.prepare import annotations
from usseg_ray.prepare.description import FILE, SetDescription, read_set_description
from usseg_ray.prepare.entries import Entry, ImageSet
from usseg_ray.prepare.lists import assigned, split_lists
from usseg_ray.prepare.pairing import DEFAULT_SPLIT, HOW_TO_SAY, Pairing, is_picture
from usseg_ray.prepare.passed import PassedFiles
from usseg_ray.prepare.patterns import LAYOUTS, PLAIN, Layout, Pattern, is_split, own_pattern, roots


def discover(
    source: str | Path,
    *,
    images: str | None = None,
    labels: str | None = None,
    classes: str | None = None,
) -> ImageSet:
    """Finds the images, labels and class names in a folder.

    Classes that `dataset.json` does not name stay empty here; `write` then counts them in the
    labels. The ignore index is 255 where `dataset.json` states none. Names are compared in
    Unicode's composed form (NFC), so that a file is one wherever it was copied from.

    Args:
        source: The folder.
        images: Pattern of the images, if the layout is none of `patterns.LAYOUTS`.
        labels: Pattern of the labels, with `images`; or a COCO JSON, perhaps with `{split}`.
        classes: `--classes`, see `description.read_set_description`.

    Returns:
        The set, sorted, the same for the same folder.

    Raises:
        UserError: No such folder, no images in it or in one of its splits, labels that cannot be
            told from images or that belong to none, two images with one id, or a `dataset.json`
            that cannot be used.
    """
    root = Path(source).expanduser().resolve()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"--source {source}: {root} {what}. Give a folder that holds images.")
    about = read_set_description(root / FILE, classes)
    described = annotations.said(root, labels) if labels and annotations.is_said(labels) else {}
    maps = None if described else labels
    if images is None and labels is None:
        described = annotations.find(root)
    passed = PassedFiles(described.values())
    if images is not None:
        entries = _by_own_patterns(root, images, maps, passed)
    elif maps is not None:
        raise UserError(f"--labels {labels} needs --images: {HOW_TO_SAY}")
    else:
        entries = _by_layout(root, passed)
    for split in {entry.split for entry in entries}:
        check_name(split, f"{root}: split")
    beside: list[str] = []
    if described and (labels or all(entry.label is None for entry in entries)):
        about, entries = _described(about, entries, described)
    elif described:
        beside = [f"{next(iter(described.values()))}: not read, as there are label maps."]
    return ImageSet(
        about.name or root.name,
        about.classes,
        about.ignore_index,
        about.palette,
        tuple(entries),
        about.things,
        about.class_of,
        colours=about.colours,
        notes=(*about.notes, *passed.lines(), *beside, *_unlabelled(entries)),
    )


def _described(
    about: SetDescription, entries: list[Entry], files: dict[str, Path]
) -> tuple[SetDescription, list[Entry]]:
    """Takes labels and classes from COCO files."""
    if about.classes:
        raise UserError(
            f"{next(iter(files.values()))}: its categories name the classes. Take 'classes' out of "
            f"{FILE}, and --classes away."
        )
    found = annotations.add_labels((replace(entry, label=None) for entry in entries), files)
    about = replace(about, classes=found.classes, ignore_index=found.void, class_of=None)
    return about, list(found.entries)


def _by_layout(source: Path, passed: PassedFiles) -> list[Entry]:
    files = passed.walk(source)
    pictures = [path for path in files if is_picture(path)]
    for root in roots(source):
        for layout in LAYOUTS:
            pattern = Pattern(layout.images)
            if any(pattern.find(path.relative_to(root)) for path in pictures):
                return _read(root, layout, files, passed)
    return _read(source, PLAIN, files, passed)


def _read(root: Path, layout: Layout, files: Iterable[Path], passed: PassedFiles) -> list[Entry]:
    image, label = Pattern(layout.images), Pattern(layout.labels)
    lists = {} if image.has_split else split_lists(root)
    pairing, outside = Pairing(passed), list[Path]()
    for path in files:
        if path in lists.values():
            continue
        below = path.relative_to(root)
        as_image, as_label = image.find(below), label.find(below)
        pairing.add(path, as_image, as_label)
        if is_picture(path) and as_image is as_label is None:
            outside.append(path)
    if layout.beside_anything:
        pairing.refuse_label_like()
    entries = pairing.entries()
    if not entries:
        raise UserError(
            f"{root}: no images here ({', '.join(sorted(IMAGE_SUFFIXES))}). "
            f"{' '.join(passed.lines())}".rstrip()
        )
    if outside and all(entry.label is None for entry in entries):
        passed.outside(layout.images, outside)
    _refuse_empty_splits(root, image, layout, {entry.split for entry in entries})
    _refuse_merged_splits(root, entries)
    return _by_lists(root, entries, lists, passed) if lists else entries


def _refuse_empty_splits(root: Path, image: Pattern, layout: Layout, splits: set[str]) -> None:
    if not image.has_split:
        return
    for folder in sorted(root.glob("/".join("*" * layout.images.count("/")))):
        found = image.find(folder.relative_to(root) / "X.png") if folder.is_dir() else None
        if found and found.split and found.split not in splits:
            raise UserError(
                f"{folder}: no images here ({', '.join(sorted(IMAGE_SUFFIXES))}), "
                f"so split {found.split!r} would be empty."
            )


def _refuse_merged_splits(root: Path, entries: Iterable[Entry]) -> None:
    places: dict[str, str] = {}
    for entry in entries:
        if not is_split(entry.split) or entry.split == DEFAULT_SPLIT:
            places |= {part: entry.id for part in entry.id.split("/")[:-1] if is_split(part)}
    if len(places) > 1:
        raise UserError(
            f"{root}: the folders {' and '.join(sorted(places))} are called as splits are, but lie "
            f"where no layout has them ({next(iter(places.values()))}). Give the folder of one "
            f"set, or say where they lie: --images 'FOLDER/{{split}}/{{id}}'."
        )


def _by_own_patterns(
    root: Path, images: str, labels: str | None, passed: PassedFiles
) -> list[Entry]:
    base, image = own_pattern(images, root, "--images")
    pairing = Pairing(passed)
    truths = set[Path]()
    if labels is not None:
        place, label = own_pattern(labels, root, "--labels")
        for path in PassedFiles().walk(place):
            found = label.find(path.relative_to(place))
            if found is not None:
                truths.add(path)
                pairing.add(path, None, found)
    for path in passed.walk(base):
        if path not in truths:
            pairing.add(path, image.find(path.relative_to(base)), None)
    entries = pairing.entries()
    if not entries:
        raise UserError(f"--images {images}: no image fits. {' '.join(passed.lines())}".rstrip())
    return entries


def _by_lists(
    root: Path, entries: list[Entry], lists: dict[str, Path], passed: PassedFiles
) -> list[Entry]:
    names: dict[str, str] = {}
    for entry in entries:
        below = Path(entry.image).relative_to(root).with_suffix("")
        for name in (PurePosixPath(entry.id).name, below.as_posix(), entry.id):
            names[name] = entry.id
    split_of = assigned(lists, names)
    passed.unlisted(len(entries) - len(split_of))
    listed = [replace(entry, split=split_of[entry.id]) for entry in entries if entry.id in split_of]
    return sorted(listed, key=lambda entry: (entry.split, entry.id))


def _unlabelled(entries: Iterable[Entry]) -> list[str]:
    """Says in which splits only some images have a label."""
    counts: dict[str, list[int]] = {}
    for entry in entries:
        counts.setdefault(entry.split, [0, 0])[entry.label is None] += 1
    return [
        f"{split}: {bare} of {bare + labelled} images have no label."
        for split, (labelled, bare) in counts.items()
        if bare and labelled
    ]
