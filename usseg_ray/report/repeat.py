"""What it takes to repeat a sweep, and the report about it: commands, versions, data, settings.

It stands after `read` and before `page` and `plain`; it joins the other builders' sections too.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import PurePath

from usseg_ray import __version__
from usseg_ray.core.table import Column, Table, TableRow
from usseg_ray.report.content import Code, Note, PageBlock, Report, Section
from usseg_ray.report.curves import k_curve, learning_curves, parallel_coordinates
from usseg_ray.report.details import cost, per_class, trust
from usseg_ray.report.gallery import galleries
from usseg_ray.report.leaderboard import leaderboard_section
from usseg_ray.report.read import Store, SweepRecord

_COMMAND, _DIGEST = "usseg.command", "usseg.data_digest"
_VERSION, _COMMIT = "usseg.version.", "mlflow.source.git.commit"
_MACHINE = "usseg.machine."


def compose(store: Store, sweeps: Sequence[SweepRecord], own_command: str) -> Report:
    """Builds the whole report.

    Args:
        store: Where the sweeps are.
        sweeps: What it is about.
        own_command: The command that writes it; empty if it is not known.

    Returns:
        All sections; one for which the store has nothing says so.
    """
    trials = sum(len(sweep.trials) for sweep in sweeps)
    states = {sweep.parent.status.lower() for sweep in sweeps}
    facts = {
        "Sweep" if len(sweeps) == 1 else "Sweeps": ", ".join(sweep.name for sweep in sweeps),
        "Methods": ", ".join(dict.fromkeys(m for sweep in sweeps for m in sweep.methods)),
        "Trials": f"{trials}"
        + (f" ({', '.join(sorted(states))})" if states != {"finished"} else ""),
        "Protocol of the selection split": "; ".join(dict.fromkeys(s.protocol for s in sweeps)),
    }
    return Report(
        f"Report on {', '.join(sweep.name for sweep in sweeps)}",
        facts,
        (
            leaderboard_section(sweeps),
            k_curve(store, sweeps),
            parallel_coordinates(sweeps),
            learning_curves(store, sweeps),
            per_class(store, sweeps),
            galleries(store, sweeps),
            trust(sweeps),
            cost(store, sweeps),
            repeat(store, sweeps, own_command),
        ),
        tuple(_answer(sweep, named=len(sweeps) > 1) for sweep in sweeps if sweep.answer),
    )


def _answer(sweep: SweepRecord, *, named: bool) -> Code:
    sentence, *command = sweep.answer
    return Code(f"{sweep.name}: {sentence}" if named else sentence, tuple(command))


def repeat(store: Store, sweeps: Sequence[SweepRecord], own_command: str) -> Section:
    """Says how to repeat sweeps: the command of each, its versions, data and settings."""
    blocks: list[PageBlock] = []
    for sweep in sweeps:
        tags = sweep.parent.tags
        if tags.get(_COMMAND):
            blocks.append(Code(f"The command of {sweep.name}", (tags[_COMMAND],)))
        else:
            blocks.append(Note(f"The command of {sweep.name} is not in the store."))
        blocks += [_versions(sweep), _settings(sweep)]
    dashboard = f"mlflow ui --backend-store-uri {shlex.quote(_near(store.address))}"
    lines = (own_command,) if own_command else ()
    blocks.append(Code("This report, and the store behind it", (*lines, dashboard)))
    return Section("repeat", "To repeat it", tuple(blocks))


def _near(address: str) -> str:
    """Writes the address of a file without the folders of the machine on which it was read."""
    start = "sqlite:///"
    if not address.startswith(start):
        return address
    return start + PurePath(address.removeprefix(start).partition("?")[0]).name


def _versions(sweep: SweepRecord) -> Table:
    tags = sweep.parent.tags
    known = {
        "data digest": tags.get(_DIGEST),
        "git commit": tags.get(_COMMIT),
        "report written by usseg_ray": __version__,
    }
    for prefix in (_VERSION, _MACHINE):
        known |= {k.removeprefix(prefix): v for k, v in tags.items() if k.startswith(prefix)}
    rows = tuple(TableRow({"name": name, "value": value}) for name, value in known.items() if value)
    columns = (Column("name", "what"), Column("value", "version or name"))
    return Table(f"Versions and data: {sweep.name}", columns, rows)


def _settings(sweep: SweepRecord) -> Table:
    rows = tuple(
        TableRow({"key": key, "value": value if isinstance(value, str) else json.dumps(value)})
        for key, value in sorted(sweep.parent.params.items())
    )
    columns = (Column("key", "setting"), Column("value", "value"))
    return Table(f"Settings that all trials share: {sweep.name}", columns, rows, folded=True)
