"""What the options of `tune` and `train` name, where it is looked for."""

from pathlib import Path

import pytest


def make_places(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes a prepared set `a-set` and a run `earlier`, and has the commands look there."""
    (folder / "a-set").mkdir()
    (folder / "a-set" / "manifest.json").touch()
    (folder / "runs" / "earlier").mkdir(parents=True)
    patch.setenv("USSEG_DATA", str(folder))
    patch.setattr("usseg_ray.trials.trial.RUNS", folder / "runs")
