"""A finished trial as an MLflow model: images in, cluster maps out.

`save_model` writes a folder that `tracking.ledger.Ledger.log_model` uploads; MLflow's own
`mlflow.pyfunc.load_model` reads it back through this module. The folder has the method's state, the
trial's settings and, where the backbone came from a file, its weights: loading needs this package
and no data set. Nothing is pickled.
"""

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch.nn.functional import interpolate

from usseg_ray import __version__, methods
from usseg_ray.core.config import build_config
from usseg_ray.core.files import write_whole
from usseg_ray.core.types import Images
from usseg_ray.data import synthetic
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.engine.model import build_model
from usseg_ray.scoring.protocols import PLAIN

_SETTINGS, _WEIGHTS = "settings.json", "backbone.safetensors"
_WEIGHTS_KEY = "backbone.weights"
_EXAMPLE_SIDE = 32


class Segmenter:
    """A trained method that segments images of any size.

    Args:
        folder: As `save_model` filled it, or MLflow downloaded it.
        device: Where to compute; a GPU if there is one and this is unset.
    """

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        known = json.loads((folder / _SETTINGS).read_text())
        settings = dict(known["settings"])
        if (folder / _WEIGHTS).exists():
            settings[_WEIGHTS_KEY] = str(folder / _WEIGHTS)
        method_class = methods.get(known["method"])
        config = build_config(method_class.Config, [settings])
        model = build_model(config, method_class, device)
        model.load(folder)
        model.method.eval()
        self.num_clusters = model.method.num_clusters
        self._predictor = model.predictor()

    @torch.no_grad()
    def predict(self, images: UInt8[np.ndarray, "N H W 3"]) -> Int64[np.ndarray, "N H W"]:
        """Finds the cluster of every pixel.

        Args:
            images: (N, H, W, 3) uint8, RGB. They are seen with the short side that trials were
                scored at, through windows where they are longer.

        Returns:
            (N, H, W) int64, from 0 to the number of clusters less one.
        """
        maps = [self._segment(torch.from_numpy(np.array(one))) for one in images]
        return np.stack(maps)

    def _segment(self, image: UInt8[torch.Tensor, "H W 3"]) -> Int64[np.ndarray, "H W"]:
        height, width = image.shape[:2]
        scale = self._predictor.side / min(height, width)
        size = (round(height * scale), round(width * scale))
        pixels = image.permute(2, 0, 1)[None].float()
        seen = interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
        shown = Images(("0",), seen.round().clamp(0, 255).to(torch.uint8))
        return self._predictor.predict(shown).label_maps((height, width))[PLAIN][0].cpu().numpy()


def save_model(method: str, settings: Mapping[str, Any], checkpoint: Path, folder: Path) -> None:
    """Writes a trained state as an MLflow model, with signature and input example.

    Args:
        method: Name of the method.
        settings: The trial's whole flattened config.
        checkpoint: Folder of the state.
        folder: Where the model goes; replaced if it is there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    image, _ = synthetic.scene(0, "val", 0)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
        data = Path(partial) / "model"
        data.mkdir()
        state = RunState.load(checkpoint, torch.device("cpu"))
        # Nobody goes on from here: the optimiser is twice as large as the method.
        replace(state, optimiser={}).save(data)
        about = {"method": method, "settings": dict(settings)}
        write_whole(data / _SETTINGS, json.dumps(about))
        if settings.get(_WEIGHTS_KEY):
            shutil.copyfile(settings[_WEIGHTS_KEY], data / _WEIGHTS)
        _save_pyfunc(folder, data, image[None, :_EXAMPLE_SIDE, :_EXAMPLE_SIDE])


def _save_pyfunc(folder: Path, data: Path, example: UInt8[np.ndarray, "N H W 3"]) -> None:
    with warnings.catch_warnings():
        # MLflow's own type hints, about which it warns when it is imported.
        warnings.simplefilter("ignore", UserWarning)
        from mlflow.pyfunc import save_model as save_pyfunc  # noqa: PLC0415 (seconds, for those that keep models)
    from mlflow.models import ModelSignature  # noqa: PLC0415
    from mlflow.types import Schema, TensorSpec  # noqa: PLC0415

    save_pyfunc(
        folder,
        loader_module=__name__,
        data_path=str(data),
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
            Schema([TensorSpec(np.dtype(np.int64), (-1, -1, -1))]),
        ),
        input_example=example,
        pip_requirements=[f"usseg-ray=={__version__}"],
    )


def _load_pyfunc(path: str) -> Segmenter:
    """Is what MLflow calls to load a model."""
    return Segmenter(Path(path))
