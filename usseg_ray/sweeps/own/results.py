"""What `usseg_ray.sweep` and `usseg_ray.prepare` return: typed, and shown in a notebook."""

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from usseg_ray.core.errors import UserError
from usseg_ray.core.records import first_fault
from usseg_ray.data.manifest import Manifest
from usseg_ray.features.presets import backbone_settings
from usseg_ray.prepare.write import Preparation
from usseg_ray.sweeps.launch import launch
from usseg_ray.sweeps.own.fitting import ready
from usseg_ray.sweeps.request import Request, named_methods, with_spaces
from usseg_ray.trials.trial import Trial, load_trials, ranked


@dataclass(frozen=True)
class PreparedSet:
    """A prepared set.

    Attributes:
        prepared: What preparing it said.
    """

    prepared: Preparation

    @property
    def place(self) -> str:
        """Its folder or URI, which `sweep` takes."""
        return self.prepared.out

    @property
    def manifest(self) -> Manifest:
        """What it is."""
        return self.prepared.manifest

    def _repr_html_(self) -> str:
        rows = [
            (name, split.rows, split.labelled, split.bad_images)
            for name, split in self.manifest.splits.items()
        ]
        return f"<div>{html.escape(self.place)}</div>" + _table(
            ("split", "images", "labelled", "bad images"), rows
        )


@dataclass(frozen=True)
class SweepResult:
    """A sweep that ended.

    Attributes:
        run: Its folder, which `usseg_ray.load` takes.
        trials: Its trials, the best first.
    """

    run: Path
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial that ranks first.

        Raises:
            UserError: None ended.
        """
        if not self.trials:
            raise UserError(f"{self.run}: no trial has ended; its messages say why.")
        return self.trials[0]

    def _repr_html_(self) -> str:
        rows = [
            (
                trial.name,
                trial.method,
                trial.settings["num_clusters"],
                trial.objective,
                shown(trial),
            )
            for trial in self.trials
        ]
        return f"<div>{html.escape(str(self.run))}</div>" + _table(
            ("trial", "method", "K", "ranked by", "value"), rows
        )


def run_own_sweep(
    data: str,
    methods: tuple[str, ...],
    out: str | None,
    backbone: str | None,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> SweepResult:
    """Runs a sweep; see `usseg_ray.api.sweep`.

    Raises:
        UserError: An option is none of a request's, or not valid.
    """
    names = named_methods(",".join(methods), None)
    network = {} if backbone is None else backbone_settings(backbone)
    try:
        request = Request(
            methods=with_spaces(names, None),
            data=ready(data),
            assigned=network | dict(settings),
            **options,
        )
    except ValidationError as error:
        raise UserError(f"sweep: {first_fault(error)}") from None
    folder = launch(request, out, None, dry_run=False)
    return SweepResult(folder, tuple(ranked(load_trials(folder))))


def shown(trial: Trial) -> str:
    """Words what a trial is ranked by."""
    value = trial.metrics.get(trial.objective)
    return "" if value is None else f"{value:.3f}"


def _table(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    def row(cells: Iterable[object], tag: str) -> str:
        written = "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)
        return f"<tr>{written}</tr>"

    return f"<table>{row(heads, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"
