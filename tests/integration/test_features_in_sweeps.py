"""A second sweep on the same data and backbone reads what the first one computed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SETTINGS = {
    "backbone.name": "textons",
    "data.train_size": 48,
    "data.eval_size": 48,
    "resources.features": "cache",
    "resources.num_workers": 0,
}


def sweep(folder: Path, scenes: Path, out: str) -> str:
    sets = [part for k, v in SETTINGS.items() for part in ("--set", f"{k}={v}")]
    command = ["--method", "kmeans", "--data", str(scenes), "--out", out, *sets]
    done = subprocess.run(
        [sys.executable, "-m", "usseg_ray.train", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_features_are_computed_once(
    tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    monkeypatch.setenv("USSEG_FEATURES", str(store))
    first = sweep(tmp_path, scenes, "runs/first")
    shards = {path: path.stat().st_mtime_ns for path in store.rglob("*.arrow")}
    again = sweep(tmp_path, scenes, "runs/again")
    assert "rows/s" in first
    assert "rows/s" not in again
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.arrow")} == shards
    runs = [tmp_path / "runs" / name for name in ("first", "again")]
    one, other = (json.loads((run / "features.json").read_text()) for run in runs)
    assert one == other
    assert len(one) == 3
    scores = [json.loads((run / "final.json").read_text())["trial_000-seed0"] for run in runs]
    assert scores[0] == scores[1]
