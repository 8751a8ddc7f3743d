"""Where a model is: in a folder, in what a run or a trial kept, or on the Hub."""

from pathlib import Path

from usseg_ray.core.errors import UserError
from usseg_ray.models.description import MODEL_FILE
from usseg_ray.models.hub import HUB, fetch

RUNS = Path("runs")

KEPT = "model"
"""Name of the folder of a run, or of a trial, that has its model."""


def find_model(place: str) -> Path:
    """Finds a model.

    Args:
        place: A model's folder, a run (its name under ./runs, or its folder; then its chosen
            model), a trial's folder, or `hf://OWNER/NAME`.
            `tracking.model.find_model_anywhere` knows `models:/NAME@champion`, too.

    Returns:
        Its folder; in a run of an earlier version that kept none, one is made.

    Raises:
        UserError: There is none; says what there is.
    """
    if place.startswith(HUB):
        return fetch(place)
    folders = [folder for folder in (Path(place).expanduser(), RUNS / place) if folder.is_dir()]
    for folder in folders:
        found = _kept(folder) or _made(folder)
        if found is not None:
            return found
    if folders:
        raise UserError(
            f"{folders[0]}: neither a model nor a run that has trained one ({MODEL_FILE} is not in "
            "it, and no trial with a checkpoint)."
        )
    runs = sorted(RUNS.glob(f"*/{KEPT}"), key=lambda path: path.stat().st_mtime)[-5:]
    known = ", ".join(path.parent.name for path in runs)
    raise UserError(
        f"{place}: no such folder, nor a run in {RUNS.absolute()}"
        + (f"; the latest with models are {known}." if known else ", which has no models.")
    )


def _kept(folder: Path) -> Path | None:
    # torch: not for what is not there
    from usseg_ray.models.earlier import IN_MLFLOWS, is_earlier  # noqa: PLC0415

    # Itself, MLflow's folder, a run, a finalist.
    places = [folder / name for name in ("", IN_MLFLOWS, KEPT, f"{KEPT}/{IN_MLFLOWS}")]
    found = (place for place in places if (place / MODEL_FILE).is_file() or is_earlier(place))
    return next(found, None)


def _made(folder: Path) -> Path | None:
    """Makes a model of a trial, or of a run's best one, that kept none."""
    from usseg_ray.models.earlier import (  # noqa: PLC0415 (see `_kept`)
        best_trial,
        convert_trial,
        finalist_model,
    )

    best = best_trial(folder)
    if best is None:
        return convert_trial(folder, folder / KEPT)
    return finalist_model(best) or convert_trial(best, folder / KEPT)
