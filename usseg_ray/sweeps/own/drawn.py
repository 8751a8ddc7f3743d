"""What a run drew of the model that it kept: pictures for the model's gallery."""

from pathlib import Path

from usseg_ray.models.description import MODEL_FILE, read_description
from usseg_ray.models.earlier import IN_MLFLOWS
from usseg_ray.models.find import KEPT
from usseg_ray.sweeps.k.answer import maps_path
from usseg_ray.trials.trial import FINALISTS

_PICTURES = "pictures/mosaic.png"

_MOSAIC = f"test/{_PICTURES}"


def run_pictures(run: Path) -> dict[str, Path]:
    """Finds the pictures of what a run kept, for its closing screen.

    Args:
        run: Its folder.

    Returns:
        What a picture shows -> its file.
    """
    kept = run / KEPT
    found = drawn(kept) if (kept / MODEL_FILE).is_file() else {}
    for model in run.glob(f"*/{KEPT}"):
        found[f"Images as {model.parent.name} segments them"] = model.parent / _PICTURES
    return {title: path for title, path in found.items() if path.is_file()}


def drawn(model: Path) -> dict[str, Path]:
    """Finds the pictures of a model in the run around it.

    Args:
        model: Its folder.

    Returns:
        What a picture shows -> its file; nothing of a model that lies by itself.
    """
    run, about = model.parent, read_description(model)
    found = {"Under every K that was tried": maps_path(run, about.method)}
    for other in run.glob(f"{FINALISTS}/*/{KEPT}/{IN_MLFLOWS}/{MODEL_FILE}"):
        if read_description(other.parent).weights_sha256 == about.weights_sha256:
            trial = other.relative_to(run / FINALISTS).parts[0]
            # The model is of the first seed.
            seeds = sorted(run.glob(f"{FINALISTS}/{trial}-seed*"), key=lambda p: (len(p.name), p))
            if seeds:
                found["Beside labels: best, median and worst"] = seeds[0] / _MOSAIC
    return {title: path for title, path in found.items() if path.is_file()}
