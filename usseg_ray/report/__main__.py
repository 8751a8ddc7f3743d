"""`python -m usseg_ray.report`: what sweeps found, as a page, or scores of runs in one table.

Without arguments it reads the MLflow store alone and writes a page (the rooms beside this file).
With the names of runs it ranks the scores that lie in their folders, if they compare.
"""

import gc
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from usseg_ray.core.cli import TrackingUri, Version, console, errors, make_app, run
from usseg_ray.core.errors import UserError
from usseg_ray.core.table import Table

app = make_app()
EXPERIMENT = "usseg_ray"
PAGE = Path("report.html")


class ReportFormat(StrEnum):
    """How the scores are written."""

    HTML = "html"
    TABLE = "table"
    MD = "md"
    CSV = "csv"
    JSON = "json"


@app.command()
def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Sweeps (names under ./runs, or folders) or trials to rank by the scores in their "
            "folders; without any, a report is written from the MLflow store.",
            show_default=False,
        ),
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option(help="MLflow experiment to report on.", show_default=EXPERIMENT),
    ] = None,
    sweep: Annotated[
        list[str],
        typer.Option(
            metavar="NAME", help="A sweep of the experiment; may be repeated; the latest if unset."
        ),
    ] = [],  # noqa: B006 (typer copies it)
    tracking_uri: TrackingUri = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write; of a page, report.html if unset.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Of RUNS, only scores whose protocol's stamp contains this, such as stego-320."
        ),
    ] = None,
    layout: Annotated[
        ReportFormat | None,
        typer.Option("--format", help="How to write it.", show_default="html, and table for RUNS"),
    ] = None,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Report on a sweep: leaderboard by protocol, charts, pictures and cost, on one offline page.

    With RUNS it ranks their finalists and evaluated trials, the baselines among them, by the mean
    over seeds, with paired intervals. Scores of different protocols stand in different tables.
    """
    if runs:
        if experiment or sweep or tracking_uri or out or layout is ReportFormat.HTML:
            raise UserError(
                "RUNS are ranked from their folders, as a table: leave them out for a report from "
                "the MLflow store, with --sweep NAME for each sweep."
            )
        _rank(runs, protocol, layout or ReportFormat.TABLE)
        return
    if protocol or layout is ReportFormat.TABLE:
        raise UserError("--protocol and --format table are for RUNS: name some.")
    text = _compose(tracking_uri, experiment or EXPERIMENT, sweep, layout or ReportFormat.HTML)
    if out is None and layout in (ReportFormat.MD, ReportFormat.CSV, ReportFormat.JSON):
        print(text, end="")
    else:
        _save(text, out or PAGE)


def _compose(
    tracking_uri: str | None, experiment: str, names: Sequence[str], layout: ReportFormat
) -> str:
    """Writes the report on sweeps of a store."""
    from usseg_ray.core.cli import repeatable  # noqa: PLC0415 (MLflow: not for --help)
    from usseg_ray.report.page import as_html  # noqa: PLC0415
    from usseg_ray.report.plain import report_csv, report_json, report_markdown  # noqa: PLC0415
    from usseg_ray.report.read import Store  # noqa: PLC0415
    from usseg_ray.report.repeat import compose  # noqa: PLC0415

    # Rows of a database are many small objects, among which a quarter of the time would go into the
    # search for garbage; what was imported is none.
    gc.freeze()
    gc.set_threshold(100_000)
    store = Store(tracking_uri, experiment)
    writers = {
        ReportFormat.MD: report_markdown,
        ReportFormat.CSV: report_csv,
        ReportFormat.JSON: report_json,
    }
    write = writers.get(layout, as_html)
    return write(compose(store, store.sweeps(names), repeatable(sys.argv)))


def _save(text: str, path: Path) -> None:
    from usseg_ray.core.files import write_whole  # noqa: PLC0415 (pyarrow: not for --help)

    try:
        write_whole(path, text)
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}.") from None
    console.say(f"{path}: {len(text.encode()) / 1e6:.1f} MB")


def _rank(runs: list[str], protocol: str | None, layout: ReportFormat) -> None:
    """Ranks the scores in the folders of runs."""
    from usseg_ray.trials.trial import find_run  # noqa: PLC0415

    folders = {name: find_run(name) for name in runs}
    # torch: neither for --help nor for what is not there
    from usseg_ray.report.runs import compare  # noqa: PLC0415

    for folder in folders.values():
        _deliver(folder)
    tables = compare(folders, protocol)
    if not tables:
        raise UserError(
            f"no scores{f' under {protocol!r}' if protocol else ''} in {', '.join(runs)}. "
            "Score a trial: python -m usseg_ray.evaluate TRIAL --protocol NAME"
        )
    _write(tables, layout)


def _deliver(folder: Path) -> None:
    """Takes to MLflow what a sweep could not, if anything; the scores themselves do without."""
    from usseg_ray.tracking.spool import SPOOL_FILE  # noqa: PLC0415 (pyarrow: not for --help)

    if not (folder / SPOOL_FILE).exists():
        return
    from usseg_ray.sweeps.request import Request  # noqa: PLC0415 (torch and MLflow: not for --help)
    from usseg_ray.tracking.ledger import EXPERIMENT, deliver  # noqa: PLC0415

    try:
        request = Request.load(folder).with_password()
        deliver(request.tracking_uri, EXPERIMENT, request.key, folder, errors.say)
    except UserError as error:
        errors.say(str(error))


def _write(tables: list[Table], layout: ReportFormat) -> None:
    from usseg_ray.core import table_text  # noqa: PLC0415 (rich's tables: not for --help)
    from usseg_ray.core.foreign import markdown_safe as escaped  # noqa: PLC0415

    match layout:
        case ReportFormat.JSON:
            print(json.dumps({"tables": list(map(table_text.as_records, tables))}, indent=1))
        case ReportFormat.CSV:
            print(table_text.as_csv(tables), end="")
        case ReportFormat.MD:
            for table in tables:
                print("\n".join([escaped(table.caption), "", *table_text.as_markdown(table), ""]))
        case _:
            for table in tables:
                console.print(table_text.as_rich(table), "", highlight=False)


if __name__ == "__main__":
    run(app)
