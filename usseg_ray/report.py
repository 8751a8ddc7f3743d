"""`python -m usseg_ray.report`: scores of several runs in one table, if they compare."""

import csv
import io
import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from usseg_ray.cli import Version, console, errors, make_app, run
from usseg_ray.config import UserError
from usseg_ray.tracking_spool import SPOOL_FILE

if TYPE_CHECKING:
    from usseg_ray.trials import Scored

app = make_app()


class Format(StrEnum):
    """How the table is written."""

    TABLE = "table"
    MD = "md"
    CSV = "csv"
    JSON = "json"


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(help="Sweeps (names under ./runs, or folders) or trials.")
    ],
    protocol: Annotated[
        str | None,
        typer.Option(help="Only scores whose protocol's stamp contains this, such as stego-320."),
    ] = None,
    layout: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.TABLE,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Rank the test scores and evaluations of runs, the baselines among them.

    Scores of different protocols do not compare, and are refused.
    """
    from usseg_ray.protocols import check_same  # noqa: PLC0415 (torch: not for --help)
    from usseg_ray.trials import find_run, load_scored  # noqa: PLC0415

    for name in runs:
        _deliver(find_run(name))
    found = [(name, scored) for name in runs for scored in load_scored(find_run(name))]
    chosen = [(name, one) for name, one in found if protocol is None or protocol in one.protocol]
    if not chosen:
        raise UserError(
            f"no scores{f' under {protocol!r}' if protocol else ''} in {', '.join(runs)}. "
            "Score a trial: python -m usseg_ray.evaluate TRIAL --protocol NAME"
        )
    stamp = check_same(one.protocol for _, one in chosen)
    if crfs := [f"{stamp}; CRF {one.crf}" for _, one in chosen if one.crf]:
        stamp = check_same(crfs)
    _write(stamp, rows_of(chosen), layout)


def _deliver(folder: Path) -> None:
    """Takes to MLflow what a sweep could not, if anything; the report itself does without."""
    if not (folder / SPOOL_FILE).exists():
        return
    from usseg_ray.request import Request  # noqa: PLC0415 (torch and MLflow: not for --help)
    from usseg_ray.tracking import EXPERIMENT, deliver  # noqa: PLC0415

    say = partial(errors.print, markup=False, highlight=False, soft_wrap=True)
    try:
        request = Request.load(folder)
        deliver(request.tracking_uri, EXPERIMENT, request.key, folder, say)
    except UserError as error:
        say(str(error))


def rows_of(found: list[tuple[str, "Scored"]]) -> list[dict[str, str | float]]:
    """Ranks scores with their baselines among them, each baseline once.

    Args:
        found: Runs and their scores, all under one protocol.

    Returns:
        A row for each: `run`, `trial`, `method` and the metrics in percent.
    """
    rows: dict[tuple[str, ...], dict[str, str | float]] = {}
    for run_name, scored in found:
        key = (run_name, scored.trial)
        named = {"run": run_name, "trial": scored.trial, "method": scored.method}
        # A trial may have been scored by its sweep and by `evaluate`, alike.
        rows[key] = {**rows.get(key, {}), **named, **scored.metrics}
        for name, value in scored.baselines.items():
            rows[run_name, "", name] = {
                "run": run_name,
                "trial": "",
                "method": name,
                "unsup_miou": value,
            }
    return sorted(rows.values(), key=lambda row: -float(row["unsup_miou"]))


def _write(stamp: str, rows: list[dict[str, str | float]], layout: Format) -> None:
    if layout is Format.JSON:
        print(json.dumps({"protocol": stamp, "scores": rows}, indent=1))
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if layout is Format.CSV:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        print(text.getvalue(), end="")
        return
    shown = ["run", "trial", "method", "unsup_miou", "unsup_acc"]
    shown += [name for name in columns if name.endswith(".unsup_miou") or name == "linear_miou"]
    cells = [[_cell(row.get(name)) for name in shown] for row in rows]
    if layout is Format.MD:
        print(f"{stamp}\n")
        for line in (shown, ["---"] * len(shown), *cells):
            print(f"| {' | '.join(line)} |")
        return
    from rich.table import Table  # noqa: PLC0415

    table = Table(*shown, title=stamp, title_justify="left")
    for line in cells:
        table.add_row(*line)
    console.print(table)


def _cell(value: str | float | None) -> str:
    return value if isinstance(value, str) else "" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    run(app)
