"""All benchmarks by name: they are run, kept in the history, and shown.

Off an image's path, below the command, which imports this when there is something to do.
"""

import json
from collections.abc import Callable, Iterator, Sequence

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from usseg_ray.bench.crf import crf_bars
from usseg_ray.bench.eval import evaluation_bars
from usseg_ray.bench.extraction import extraction_bars
from usseg_ray.bench.features import reading_bars
from usseg_ray.bench.gpu import gpu_bars, has_gpu
from usseg_ray.bench.history import append, change_table, changes_since, load_history, make_record
from usseg_ray.bench.inputs import make_jpegs
from usseg_ray.bench.io import io_bars, planning_bars
from usseg_ray.bench.meter import Measure
from usseg_ray.bench.methods import method_bars
from usseg_ray.bench.predict import prediction_bars
from usseg_ray.bench.stream import streaming_measures
from usseg_ray.bench.sweep import sweep_bars
from usseg_ray.bench.training import training_bars
from usseg_ray.bench.works import Sizes
from usseg_ray.core.cli import console, errors

IMAGES, MANY_IMAGES, DISTINCT_IMAGES = 800, 10_000, 500
PLANNED_ROWS = 1_280_000
REFINED_SIDE, LARGE_REFINED_SIDE = 128, 320

Bars = Iterator[Measure]


def _io(full: bool) -> Bars:
    yield from planning_bars(PLANNED_ROWS)
    yield from io_bars(MANY_IMAGES if full else IMAGES)
    if full:
        yield from streaming_measures(list(make_jpegs(DISTINCT_IMAGES)))


def _features(full: bool) -> Bars:  # noqa: ARG001
    yield from reading_bars()
    yield from extraction_bars()
    yield from training_bars()


BENCHMARKS: dict[str, Callable[[bool], Bars]] = {
    "io": _io,
    "features": _features,
    "methods": lambda full: method_bars(Sizes(), full=full),
    "sweep": lambda full: sweep_bars(full=full),
    "crf": lambda full: crf_bars(LARGE_REFINED_SIDE if full else REFINED_SIDE),
    "eval": lambda _: evaluation_bars(),
    "predict": lambda _: prediction_bars(),
    "gpu": lambda _: gpu_bars(),
}


def measure(what: str, *, full: bool, as_json: bool) -> bool:
    """Runs benchmarks, keeps what they found, and prints it.

    Args:
        what: A benchmark's name, or `all`: then `gpu` where there is one.
        full: With the long comparisons.
        as_json: Print the line of the history in place of a table.

    Returns:
        Whether every bar was met.
    """
    measures: list[Measure] = []
    for name, benchmark in BENCHMARKS.items():
        if what == name or (what == "all" and (name != "gpu" or has_gpu())):
            with errors.status(f"{name} ...") as status:
                for one in benchmark(full):
                    measures.append(one)
                    status.update(f"{name}, after {one.what} ...")
    record = make_record(what, measures, full=full)
    path = append(record)
    if as_json:
        typer.echo(json.dumps(record, indent=1))
    else:
        console.print(bar_table(measures))
        console.print(f"Kept in {path}", highlight=False, soft_wrap=True)
        console.print(verdict(measures), highlight=False, soft_wrap=True)
    return all(one.passed for one in measures)


def show_changes(what: str, *, as_json: bool) -> None:
    """Prints the last run on this machine beside the one before.

    Args:
        what: A benchmark's name, or `all`.
        as_json: Print rows of JSON in place of a table.

    Raises:
        UserError: There are no two runs to compare.
    """
    changes = changes_since(load_history(), what)
    if as_json:
        typer.echo(json.dumps([one.row() for one in changes], indent=1))
    else:
        console.print(change_table(changes))


def bar_table(measures: Sequence[Measure]) -> Table:
    """Draws figures, each above what it is measured against.

    Args:
        measures: In the order of the rows.

    Returns:
        The table; bars that are missed are marked.
    """
    table = Table("what, and what it stands beside", box=SIMPLE_HEAD, padding=(0, 1))
    for column in ("figure", "ratio", "bar"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in measures:
        # Of bars below 1, "25x less" says more than 0.04; of parts of a whole, a share does.
        small = one.ratio if one.limit is None else one.limit
        less = not one.more_is_better and small is not None and small < 1
        ratio, limit = (
            _share(value) if less and one.limit is None else _times(value, less=less)
            for value in (one.ratio, one.limit)
        )
        verdict = "" if one.limit is None else "met" if one.passed else "[bold red]missed[/]"
        table.add_row(one.what, f"{one.value:.3g} {one.unit}", ratio, limit, verdict)
        known = one.reference_value
        figure = "" if known is None else f"[dim]{known:.3g} {one.unit}[/]"
        table.add_row(f"  [dim]{one.reference}[/]", figure)
    return table


def verdict(measures: Sequence[Measure]) -> str:
    """Says how many of the figures that have a bar meet it."""
    held = [one for one in measures if one.limit is not None]
    return f"{sum(one.passed for one in held)} of {len(held)} bars are met."


def _share(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * ratio:.3g} %"


def _times(ratio: float | None, *, less: bool) -> str:
    if ratio is None:
        return ""
    return f"{1 / ratio:.3g}x less" if less and ratio else f"{ratio:.3g}x"
