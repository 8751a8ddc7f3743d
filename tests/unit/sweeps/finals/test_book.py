from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.finalists import trial
from usseg_ray.sweeps.finals.book import FinalsBook, picked_tag
from usseg_ray.sweeps.finals.scores import final_folder
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.trial import note_test_scores


def test_what_picked_is_a_tag_where_there_was_a_choice() -> None:
    plan: Any = SimpleNamespace(picked="labels of val")
    assert picked_tag(plan) == {"usseg.picked": "labels of val"}
    plan.picked = ""
    assert picked_tag(plan) == {}


def test_scores_are_kept_once_and_not_before_the_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[int, float]] = []
    baselines: Any = SimpleNamespace(are_there=False)
    plan: Any = SimpleNamespace(request=SimpleNamespace(seeds=2))
    nothing: Any = None
    finals = FinalsBook(plan, Storage(tmp_path), nothing, baselines, nothing)
    monkeypatch.setattr(
        finals, "_keep", lambda _, seed, metrics: kept.append((seed, metrics["unsup_miou"]))
    )
    chosen = trial(0, "acseg", 30)
    note_test_scores(final_folder(tmp_path, chosen, 5), {"unsup_miou": 31.0})
    finals.keep([chosen])
    assert kept == []
    baselines.are_there = True
    finals.keep([chosen])
    finals.keep([chosen])
    assert kept == [(5, 31.0)]
