"""A second sweep on the same data and backbone computes no feature again; methods share them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.features import vit
from tests.scenes import COUNTS
from usseg_ray.core.config import flatten
from usseg_ray.sweeps.features import load_chosen

pytestmark = [pytest.mark.ray, pytest.mark.slow]

COUNTING = Path(__file__).parent / "counting"
SETTINGS = {
    "data.train_size": 48,
    "data.eval_size": 48,
    "data.crops": "centre",
    "data.flip": False,
    "data.view_draws": 1,
    "train.epochs": 1,
    "train.batch_size": 16,
    "method.num_heads": 3,
    "method.num_blocks": 1,
    "method.dim": 8,
    "method.pool_size": 12,
    "resources.features": "cache",
    "resources.num_workers": 0,
}


def sweep(folder: Path, data: Path, name: str, backbone: dict[str, Any]) -> tuple[str, list[int]]:
    """Runs all three methods; returns what was printed and the rows that backbones computed."""
    settings = backbone | SETTINGS
    sets = [part for k, v in settings.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    command = [
        "--method",
        "acseg,hp,stego",
        "--num-samples",
        "1",
        "--finalists",
        "0",
        "--calibrate",
        "off",
        "--data",
        str(data),
        *sets,
    ]
    counts = folder / f"{name}.txt"
    done = subprocess.run(
        [sys.executable, "-m", "usseg_ray.tune", *command, "--out", f"runs/{name}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "PYTHONPATH": f"{COUNTING}:{PROJECT}",
            "COUNTED_FORWARDS": str(counts),
            "USSEG_FEATURES": str(folder / "store"),
        },
    )
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stdout
    lines = counts.read_text().splitlines() if counts.exists() else []
    return done.stdout, [int(line.split()[0]) for line in lines]


def test_features_are_computed_once(tmp_path: Path, scenes: Path) -> None:
    backbone = flatten(vit(tmp_path), "backbone.")
    backbone = {key: value for key, value in backbone.items() if value is not None}
    first, rows = sweep(tmp_path, scenes, "first", backbone)
    folders = [tmp_path / "runs" / name for name in ("first", "again")]
    keys = load_chosen(folders[0])
    assert keys is not None
    # Of training images crops, squares and photometric views; of the other splits squares.
    assert len(keys) == 5
    once = 3 * COUNTS["train"] + COUNTS["val"] + COUNTS["test"]
    # What is stored beside tokens takes a pass of its own. Three
    # methods would have computed the squares for training, scoring and the linear probe by itself.
    assert once <= sum(rows) < 3 * once
    assert first.count(": stored (") == len(keys)
    again, computed = sweep(tmp_path, scenes, "again", backbone)
    assert computed == []
    assert again.count(": in the store.") == len(keys)
    assert load_chosen(folders[1]) == keys
    scores = [
        [json.loads(file.read_text())["metrics"]["unsup_miou"] for file in sorted(found)]
        for found in (folder.glob("trial_*/trial.json") for folder in folders)
    ]
    assert len(scores[0]) == 3
    assert scores[0] == scores[1]
