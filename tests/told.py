"""Trials that have ended, and tables as text, for the tests of what a sweep says."""

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from usseg_ray.trials.trial import Trial


def trial(index: int, score: float | None, **metrics: float) -> Trial:
    found = {"epoch": 3.0, "unsup_acc": 50.0} | metrics
    if score is not None:
        found["unsup_miou"] = score
    settings = {"num_clusters": 10 + index, "method.gamma": 1 / 3}
    return Trial(index, "acseg", {"method.gamma": 1 / 3}, settings, 3, "FINISHED", found)


def cells(table: Table) -> list[list[str]]:
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def shown(*renderables: Any, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    for renderable in renderables:
        console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
