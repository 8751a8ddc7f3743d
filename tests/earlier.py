"""What 0.2.0 left: models as MLflow kept them, and the records of runs."""

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usseg_ray.engine.checkpoint import STATE_FILE


def earlier_model(folder: Path, method: str, settings: Mapping[str, Any], checkpoint: Path) -> Path:
    """Writes a model into MLflow's folder, as a finalist's."""
    data = folder.parent / "kept-by-0.2.0" / "model"
    data.mkdir(parents=True)
    shutil.copyfile(checkpoint / STATE_FILE, data / STATE_FILE)
    (data / "settings.json").write_text(json.dumps({"method": method, "settings": dict(settings)}))
    with warnings.catch_warnings():
        # MLflow's own type hints, about which it warns when it is imported.
        warnings.simplefilter("ignore", UserWarning)
        from mlflow.pyfunc import save_model
    save_model(
        folder,
        loader_module="usseg_ray.tracking.model",
        data_path=str(data),
        pip_requirements=["usseg-ray==0.2.0"],
    )
    return folder


def earlier_trial(
    folder: Path, method: str, settings: Mapping[str, Any], checkpoint: Path, score: float
) -> Path:
    """Writes a trial's record and its last checkpoint."""
    last = folder / "train" / "epoch_0002"
    last.mkdir(parents=True)
    shutil.copyfile(checkpoint / STATE_FILE, last / STATE_FILE)
    record = {
        "index": int(folder.name.removeprefix("trial_")),
        "method": method,
        "sample": {},
        "settings": dict(settings),
        "epochs": 2,
        "status": "FINISHED",
        "metrics": {"unsup_miou": score, "epoch": 2.0},
        # Of the machine that it was trained on.
        "checkpoint": f"/elsewhere/{folder.name}/train/epoch_0002",
        "reason": None,
        "seconds": 1.0,
        "seed": None,
        "objective": "unsup_miou",
    }
    (folder / "trial.json").write_text(json.dumps(record))
    return folder
