"""All formats by the names that `--save` knows."""

import importlib.util

from usseg_ray.core.errors import UserError, unknown_name
from usseg_ray.outputs import (
    coco,
    confidence,
    cvat,
    geojson,
    geotiff,
    label_studio,
    overlay,
    parquet,
    png,
    segments,
)
from usseg_ray.outputs.base import Format

FORMATS: dict[str, Format] = {
    "png": png.FORMAT,
    "overlay": overlay.FORMAT,
    "confidence": confidence.FORMAT,
    "segments": segments.FORMAT,
    "parquet": parquet.FORMAT,
    "coco": coco.FORMAT,
    "cvat": cvat.FORMAT,
    "label-studio": label_studio.FORMAT,
    "geotiff": geotiff.FORMAT,
    "geojson": geojson.FORMAT,
    "geopackage": geojson.PACKAGE,
}


def parse_formats(text: str) -> tuple[str, ...]:
    """Reads `--save`.

    Args:
        text: Names with commas between them.

    Returns:
        Each once, in the order of `FORMATS`.

    Raises:
        UserError: One is unknown, needs an extra that is not installed, or there is none.
    """
    wanted = {name.strip() for name in text.split(",") if name.strip()}
    if not wanted:
        raise UserError(f"--save {text!r} names no format. Formats: {', '.join(FORMATS)}.")
    for name in sorted(wanted):
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
        _check_installed(name, FORMATS[name])
    return tuple(name for name in FORMATS if name in wanted)


def _check_installed(name: str, form: Format) -> None:
    missing = [module for module in form.modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            f"--save {name} needs {' and '.join(missing)}: pip install 'usseg-ray[{form.extra}]'."
        )
