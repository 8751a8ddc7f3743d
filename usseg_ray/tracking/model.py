"""A model as an MLflow model, and back: images in, label maps out.

`save_mlflow_model` writes a folder that `tracking.ledger.Ledger.log_model` uploads; MLflow's own
`mlflow.pyfunc.load_model` reads it back through this module, which models of every version name
as their loader. What it wraps is a model's own folder (`models.folder`), of which nothing is
pickled.
"""

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt8

from usseg_ray import __version__
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line
from usseg_ray.models import find
from usseg_ray.models.description import read_description

if TYPE_CHECKING:
    from usseg_ray.models.segmenter import Segmenter

REGISTRY = "models:/"

_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")

_EXAMPLE_SIDE = 32


class Pyfunc:
    """What MLflow asks for predictions.

    Args:
        segmenter: The model.
    """

    def __init__(self, segmenter: "Segmenter") -> None:
        self.segmenter = segmenter

    def predict(self, images: UInt8[np.ndarray, "N H W 3"]) -> Int64[np.ndarray, "N H W"]:
        """Segments images.

        Args:
            images: (N, H, W, 3) uint8, RGB. They are seen with the short side that trials were
                scored at, through windows where they are longer.

        Returns:
            (N, H, W) int64, from 0 to the number of clusters less one; see `models.names` for
            clusters that were merged or are ignored.
        """
        return np.stack([self.segmenter.segment(image).mask for image in images])


def save_mlflow_model(model: Path, folder: Path) -> None:
    """Writes a model as an MLflow model, with signature, input example, names and palette.

    Args:
        model: Its folder.
        folder: Where the MLflow model goes, in place of whatever is there, the model itself too.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    from usseg_ray.data import synthetic  # noqa: PLC0415 (scipy)

    image, _ = synthetic.scene(0, "val", 0)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
        # MLflow names the copy after it.
        data = Path(partial) / find.KEPT
        shutil.copytree(model, data)
        shutil.rmtree(folder, ignore_errors=True)
        _save_pyfunc(folder, data, image[None, :_EXAMPLE_SIDE, :_EXAMPLE_SIDE])


def _save_pyfunc(folder: Path, data: Path, example: UInt8[np.ndarray, "N H W 3"]) -> None:
    with warnings.catch_warnings():
        # MLflow's own type hints, about which it warns when it is imported.
        warnings.simplefilter("ignore", UserWarning)
        from mlflow.pyfunc import save_model as save_pyfunc  # noqa: PLC0415 (seconds, for those that keep models)
    from mlflow.models import ModelSignature  # noqa: PLC0415
    from mlflow.types import Schema, TensorSpec  # noqa: PLC0415

    names = read_description(data).names

    save_pyfunc(
        folder,
        loader_module=__name__,
        data_path=str(data),
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
            Schema([TensorSpec(np.dtype(np.int64), (-1, -1, -1))]),
        ),
        input_example=example,
        metadata={
            "names": [name.model_dump() for name in names.clusters],
            "palette": names.palette[: len(names)].tolist(),
            "ignored": names.ignored,
        },
        pip_requirements=[f"usseg-ray=={__version__}"],
    )


def _load_pyfunc(path: str) -> Pyfunc:
    """Is what MLflow calls to load a model."""
    from usseg_ray.models.segmenter import Segmenter  # noqa: PLC0415 (torch)

    return Pyfunc(Segmenter.open(Path(path)))


def find_model_anywhere(place: str, tracking_uri: str | None = None) -> Path:
    """Finds a model, in MLflow's registry too.

    Args:
        place: `models:/NAME@champion`, `models:/NAME/3`, or what `models.find.find_model` takes.
        tracking_uri: The store whose registry is asked; as for a sweep if unset.

    Returns:
        Its folder; one of the registry is downloaded.

    Raises:
        UserError: There is none, or the store is out of reach.
    """
    if not place.startswith(REGISTRY):
        return find.find_model(place)
    # Beside the path: MLflow takes seconds to import.
    from mlflow.artifacts import download_artifacts  # noqa: PLC0415
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    from usseg_ray.tracking.store import PATIENCE, explained, patience, store_uri  # noqa: PLC0415

    uri = store_uri(tracking_uri)
    with explained(uri), patience(PATIENCE):
        try:
            folder = download_artifacts(artifact_uri=place, tracking_uri=uri, registry_uri=uri)
        except MlflowException as error:
            if error.error_code not in _MISSING:
                raise
            raise UserError(
                f"{place}: {first_line(error)[:160]}. The registry is that of --tracking-uri, or "
                "of MLFLOW_TRACKING_URI."
            ) from None
    return find.find_model(folder)
