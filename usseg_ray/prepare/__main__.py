"""`python -m usseg_ray.prepare`: a folder of images becomes a prepared set."""

from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from usseg_ray.core.cli import Version, console, image_bar, make_app, run
from usseg_ray.core.errors import UserError

if TYPE_CHECKING:
    from usseg_ray.prepare.sets import PublishedSet
    from usseg_ray.prepare.sets.download import Archive
    from usseg_ray.prepare.write import Preparation

# As `prepare.sets` and `data.shards` have them, whose imports --help does not wait for.
PUBLISHED = (
    "cocostuff27, cocostuff27-curated, cocostuff81, cocostuff171, cityscapes27, cityscapes19, "
    "potsdam3, voc2012, camvid"
)
IMAGES_IN_A_SHARD = 256

app = make_app()


@app.command()
def main(
    *,
    source: Annotated[
        str,
        typer.Option(
            help="Folder of images: {split}/images and {split}/labels, or any folder of images "
            "(docs/data.md lists the layouts); with --dataset, the folder that holds it."
        ),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Where the images lie below --source, e.g. 'rgb/{split}/{id}.jpg'.",
            show_default="the layout's folders",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Where their labels lie, e.g. 'gt/{split}/{id}_ids.png' (with --images); or a "
            "COCO JSON.",
            show_default="the layout's folders",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Names of the classes, with commas; VALUE=NAME where label values are others.",
            show_default="dataset.json's",
        ),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(
            help="Which bands of TIFF files are red, green and blue (or the one that is grey): "
            "numbers from 1, or names, e.g. 4,3,2.",
            show_default="the file's own colours",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder or URI of the prepared set.", show_default="$USSEG_DATA/NAME"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the set is called.", show_default="the source's name")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help=f"A published set: {PUBLISHED}.", show_default="your own"),
    ] = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="Fetch the published set into --source first."),
    ] = False,
    rows_per_shard: Annotated[
        int, typer.Option(min=1, help="Images in a shard.")
    ] = IMAGES_IN_A_SHARD,
    max_bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="Stop if a larger share cannot be used.")
    ] = 0.05,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the set in --out.")
    ] = False,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Make a prepared set (Parquet shards and a manifest) from a folder of images.

    Files are checked and stored as they are; only numbers of more than 8 bits, and bands that are
    chosen, become new pictures of 8 bits. What cannot be used is skipped, counted and named in
    quarantine.jsonl. Running it twice does the work once.
    """
    if dataset is not None and (images or labels or classes):
        raise UserError("--images, --labels and --classes are for a folder of your own.")
    # Ray, pyarrow: not for --help.
    from usseg_ray.data.scaling import parse_bands  # noqa: PLC0415
    from usseg_ray.prepare.sets import find_set  # noqa: PLC0415
    from usseg_ray.prepare.write import Patterns, prepare  # noqa: PLC0415

    if download:
        if dataset is None:
            raise UserError(f"--download needs --dataset: one of {PUBLISHED}.")
        fetch_published(find_set(dataset), source)
    with image_bar("Checking and writing") as on_progress:
        prepared = prepare(
            source,
            out,
            name=name,
            dataset=dataset,
            rows_per_shard=rows_per_shard,
            max_bad_share=max_bad_share,
            overwrite=overwrite,
            patterns=Patterns(images, labels, classes),
            bands=parse_bands(bands),
            on_progress=on_progress,
        )
    _print_summary(prepared)


def fetch_published(published: "PublishedSet", folder: str) -> None:
    """Fetches a published set into a folder: says what, whence and under whose terms, then does.

    Args:
        published: Which.
        folder: Where it goes; what is there of it already is neither fetched nor told.

    Raises:
        UserError: As for `PublishedSet.download`.
    """
    from usseg_ray.prepare.sets.download import missing  # noqa: PLC0415

    wanted = missing(published.archives, folder)
    if not wanted:
        # Nothing is left to fetch, or nothing may be.
        published.download(folder)
        return
    console.say(_announcement(published, wanted, folder))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bars: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in bars:
                for bar in bars.values():
                    progress.remove_task(bar)
                bars.clear()
                bars[what] = progress.add_task(escape(what), completed=done)
            progress.update(bars[what], completed=done, total=total)

        published.download(folder, show)
    for archive in wanted:
        if archive.sha256 is None:
            console.say(
                f"{archive.file}: nobody publishes a checksum. What was found is in "
                f"{archive.file}.json, and a later download must have it again."
            )


def _announcement(published: "PublishedSet", wanted: "list[Archive]", folder: str) -> str:
    sizes = [archive.size for archive in wanted]
    told = f"{sum(size or 0 for size in sizes) / 1e9:.1f} GB"
    if None in sizes:
        told += f" and {sizes.count(None)} of unstated size"
    hosts = ", ".join(dict.fromkeys(str(urlsplit(archive.url).hostname) for archive in wanted))
    return (
        f"Downloading {published.name} to {folder}: {len(wanted)} files, {told}, from {hosts}.\n"
        f"Home and terms: {published.home}"
    )


def _print_summary(prepared: "Preparation") -> None:
    manifest = prepared.manifest
    table = Table(title=f"{escape(manifest.name)}: {len(manifest.classes)} classes")
    table.add_column("split")
    for heading in ("images", "labelled", "bad images", "bad labels", "shards", "MB"):
        table.add_column(heading, justify="right")
    for split, info in manifest.splits.items():
        shards = manifest.shards_of(split)
        size = sum(shard.num_bytes for shard in shards) / 1e6
        counts = (info.rows, info.labelled, info.bad_images, info.bad_labels, len(shards))
        table.add_row(escape(split), *map(str, counts), f"{size:.1f}")
    console.print(table)
    for split, info in manifest.splits.items():
        if info.origin:
            console.say(f"{split}: {info.origin}")
        if info.expected not in (None, info.rows):
            console.print(
                f"[yellow]{escape(split)} has {info.rows} images, officially {info.expected}: "
                "its scores do not compare with published ones.[/]",
                highlight=False,
            )
    for note in prepared.notes:
        console.say(note)
    if prepared.images_per_second:
        console.print(f"{prepared.images_per_second:.0f} images/s", highlight=False)
    done = (
        "Prepared" if prepared.fresh else "Already prepared, nothing to do (--overwrite redoes it)"
    )
    console.say(f"{done}: {prepared.out}")


if __name__ == "__main__":
    run(app)
