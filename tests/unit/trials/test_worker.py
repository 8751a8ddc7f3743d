from pathlib import Path
from typing import Any

import pytest
import ray.tune

from tests import tiny
from usseg_ray.engine.checkpoint import BEST, STATE_FILE
from usseg_ray.trials import worker
from usseg_ray.trials.job import FinalScoring, Job
from usseg_ray.trials.storage import Storage, below, opened
from usseg_ray.trials.trial import CHECKPOINTS, noted_test_scores


class KilledError(Exception):
    """Stands for a lost machine."""


def fit(job: Job, uri: str) -> None:
    with opened(uri) as storage:
        worker.run_here(job, storage).fit()


def test_a_trial_at_a_uri_is_trained_on_two_machines_and_scored_on_a_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    tiny.write(data)
    job = Job("acseg", tiny.config(train__epochs=3), str(data))
    uris = [(tmp_path / name / "trial_000").as_uri() for name in ("whole", "broken")]
    told: dict[str, list[dict[str, Any]]] = {"whole": [], "broken": []}

    def report(run: str, breaks: int) -> None:
        def take(metrics: dict[str, Any]) -> None:
            told[run].append({k: v for k, v in metrics.items() if "second" not in k})
            if metrics["epoch"] == breaks:
                raise KilledError

        monkeypatch.setattr(ray.tune, "report", take)

    report("whole", 0)
    fit(job, uris[0])
    report("broken", 2)
    with pytest.raises(KilledError):
        fit(job, uris[1])
    report("broken", 0)
    fit(job, uris[1])
    for metrics in told["whole"] + told["broken"]:
        metrics["checkpoint_path"] = Path(metrics["checkpoint_path"]).name
    assert [metrics["epoch"] for metrics in told["broken"]] == [1, 2, 3]
    assert told["broken"] == told["whole"]

    finals = []
    for name, uri in zip(("whole", "broken"), uris, strict=True):
        place = below(uri, "final")
        asked = FinalScoring(job, f"{name}/trial_000", f"{name}/trial_000/final")
        finals.append(worker.final_score(asked, tmp_path.as_uri()))
        assert Storage(tmp_path, place).files() == ["evaluation.npz", "images.npz", "test.json"]
        with opened(place) as target:
            target.fetch("test.json")
            assert noted_test_scores(target.folder) == finals[-1]
        assert Storage(tmp_path, uri).folders(CHECKPOINTS) == ["epoch_0002", "epoch_0003"]
    assert finals[0] == finals[1]
    assert {"unsup_miou", "label_selected_miou"} <= finals[0].keys()
    (tmp_path / "whole" / "trial_000" / BEST / STATE_FILE).write_bytes(b"")
    asked = FinalScoring(job, "whole/trial_000", "again", "epoch_0003")
    again = worker.final_score(asked, str(tmp_path))
    assert again == {k: v for k, v in finals[0].items() if "label_selected" not in k}
