import json
from pathlib import Path
from typing import Any

import torch

from usseg_ray.engine.checkpoint import BEST, CHECKPOINT, keep_best, load_state


def state(epoch: int, score: float | None) -> dict[str, Any]:
    metrics = {"epoch": float(epoch)} | ({} if score is None else {"unsup_miou": score})
    return {"epoch": epoch, "metrics": metrics, "method": {"weight": torch.tensor(epoch)}}


def kept(folder: Path) -> int:
    found: int = load_state(folder / BEST, torch.device("cpu"))["epoch"]
    return found


def test_the_state_that_scored_best_is_kept(tmp_path: Path) -> None:
    for epoch, score, expected in ((1, 30.0, 1), (2, 50.0, 2), (3, 40.0, 2), (4, 50.0, 2)):
        keep_best(state(epoch, score), tmp_path)
        assert kept(tmp_path) == expected
    assert {path.name for path in tmp_path.iterdir()} == {BEST}
    assert {path.name for path in (tmp_path / BEST).iterdir()} == {CHECKPOINT, "metrics.json"}
    assert json.loads((tmp_path / BEST / "metrics.json").read_text()) == {
        "epoch": 2,
        "unsup_miou": 50.0,
    }


def test_an_epoch_without_a_score_is_passed_over(tmp_path: Path) -> None:
    keep_best(state(1, None), tmp_path)
    assert list(tmp_path.iterdir()) == []
