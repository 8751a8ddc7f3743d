"""`python -m usseg_ray.features`: what the feature store holds, and how it is kept in order."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from usseg_ray.core.cli import Version, console, make_app, run
from usseg_ray.core.errors import UserError

if TYPE_CHECKING:
    from usseg_ray.features.store.folder import EntryState, FeatureFolder

DAY_S = 86400.0
DAMAGED = 1
app = make_app()


class Action(StrEnum):
    """What is done."""

    LS = "ls"
    RM = "rm"
    VERIFY = "verify"


@app.command()
def features(
    action: Annotated[
        Action,
        typer.Argument(
            help="ls lists the entries, or one in full; rm removes entries that are not in use; "
            "verify hashes every shard and removes damaged ones, which the next run that needs "
            "them computes again.",
        ),
    ],
    keys: Annotated[
        list[str] | None,
        typer.Argument(help="Entries, or the first digits of their keys.", metavar="[KEY]..."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="The store's folder.",
            show_default="$USSEG_FEATURES, else feature-store beside the prepared sets",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="rm: every entry.")] = False,
    unused_for: Annotated[
        float | None,
        typer.Option(min=0, help="rm: entries that nothing read for so many days.", metavar="DAYS"),
    ] = None,
    version: Version = False,  # noqa: ARG001
) -> None:
    """List, remove or check stored features of frozen backbones; see docs/features.md."""
    # torch: not for --help
    from usseg_ray.features.store.folder import FeatureFolder, default_folder  # noqa: PLC0415

    folder = FeatureFolder(store.expanduser().absolute()) if store else default_folder()
    entries = folder.entries()
    chosen = [found for key in keys or () for found in matching(entries, key)]
    if action is Action.RM:
        if not (chosen or everything or unused_for is not None):
            raise UserError("rm: which? Give keys (ls lists them), --all, or --unused-for DAYS.")
        remove(folder, select(entries, chosen, everything=everything, unused_for=unused_for))
        return
    if everything or unused_for is not None:
        raise UserError(f"{action}: --all and --unused-for are for rm.")
    if action is Action.VERIFY:
        raise typer.Exit(DAMAGED if verify_entries(folder, chosen or entries) else 0)
    if chosen:
        for kept in chosen:
            console.print(entry_table(kept))
        return
    console.print(listing(entries))
    total = sum(kept.num_bytes for kept in entries) / 1e9
    console.print(
        f"{total:.2f} of at most {folder.limit_bytes / 1e9:.0f} GB in {escape(str(folder.root))}",
        highlight=False,
        soft_wrap=True,
    )


def matching(entries: list["EntryState"], key: str) -> list["EntryState"]:
    """Finds the entry whose key begins so.

    Raises:
        UserError: There is none, or several.
    """
    found = [kept for kept in entries if kept.manifest.key.startswith(key)]
    if len(found) != 1:
        count = "no entry" if not found else f"{len(found)} entries"
        raise UserError(
            f"{key}: {count} of that key. python -m usseg_ray.features ls lists {len(entries)}."
        )
    return found


def select(
    entries: list["EntryState"],
    chosen: list["EntryState"],
    *,
    everything: bool,
    unused_for: float | None,
) -> list["EntryState"]:
    """Lists the entries that are to be removed: those named, all, or those unused for days."""
    if everything:
        return entries
    if unused_for is None:
        return chosen
    before = time.time() - unused_for * DAY_S
    return [kept for kept in chosen or entries if kept.used_at < before]


def remove(folder: "FeatureFolder", entries: list["EntryState"]) -> None:
    """Removes entries, telling which are in use and stay."""
    folder.clear_removed()
    freed = 0
    for kept in entries:
        key = kept.manifest.key
        if folder.remove(key):
            freed += kept.num_bytes
            console.print(f"Removed {key}.", highlight=False)
        else:
            console.print(f"[yellow]{key} is in use and stays.[/]", highlight=False)
    console.print(f"{freed / 1e9:.2f} GB are free again.", highlight=False)


def verify_entries(folder: "FeatureFolder", entries: list["EntryState"]) -> bool:
    """Hashes every shard of entries, names the damaged ones and removes them.

    Returns:
        Whether any was damaged.
    """
    from usseg_ray.features.store.blocks import Shard, drop_damaged, list_shards  # noqa: PLC0415

    damaged: list[tuple[str, Shard]] = []
    count = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("shards"),
        TimeRemainingColumn(),
    )
    on_screen = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not on_screen) as progress:
        for kept in entries:
            key = kept.manifest.key
            # Nobody writes it meanwhile, nor may it be removed.
            with folder.building(key, lambda: console.print("Waiting: an entry is being written.")):
                parts = (*kept.complete, *kept.partial)
                shards = [s for part in parts for s in list_shards(kept.path, part).values()]
                for shard in progress.track(shards, description=f"Reading {key}"):
                    found = drop_damaged(kept.path, [shard], thorough=True)
                    damaged += [(key, bad) for bad in found]
                count += len(shards)
    for key, bad in damaged:
        console.print(
            f"[red]damaged:[/] shard {bad.name} of {key}; removed, the next run that needs it "
            "computes it again.",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"{count} shards in {len(entries)} entries: {len(damaged) or 'none'} damaged.",
        highlight=False,
    )
    return bool(damaged)


def listing(entries: list["EntryState"]) -> Table:
    """Lays out entries, one a line."""
    table = Table("key", "data", "backbone", "shown", "parts", "GB", "unused", "state")
    for kept in entries:
        says = kept.manifest.says
        partial = [f"{part} (unfinished)" for part in kept.partial]
        table.add_row(
            kept.manifest.key,
            escape(says["data"].rsplit(", shards", 1)[0]),
            escape(says["backbone"].split(",")[0]),
            escape(says["crops"]),
            ", ".join([*kept.complete, *partial]) or "nothing yet",
            f"{kept.num_bytes / 1e9:.2f}",
            _ago(time.time() - kept.used_at),
            "[cyan]in use[/]" if kept.in_use else "",
        )
    table.columns[5].justify = "right"
    return table


def entry_table(kept: "EntryState") -> Table:
    """Lays out all that an entry says of itself."""
    table = Table(title=escape(kept.manifest.key), show_header=False, title_justify="left")
    rows = {
        **kept.manifest.says,
        "rows": f"{kept.manifest.rows}: {kept.manifest.images} images x "
        f"{kept.manifest.rows_per_image}",
        "tokens": f"{kept.manifest.dim} x {kept.manifest.grid} x {kept.manifest.grid}",
        "complete": ", ".join(kept.complete) or "nothing yet",
        "unfinished": ", ".join(kept.partial) or "nothing",
        "size": f"{kept.num_bytes / 1e9:.3f} GB",
        "folder": str(kept.path),
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _ago(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"


if __name__ == "__main__":
    run(app)
