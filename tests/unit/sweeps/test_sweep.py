"""What a sweep's processes do beside its trials; the sweep itself needs Ray."""

from types import SimpleNamespace
from typing import Any

import pytest

from usseg_ray.sweeps import sweep


@pytest.mark.parametrize("full", [True, False])
def test_baselines_have_a_process_where_trials_leave_room(
    monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    said: list[str] = []
    baselines = SimpleNamespace(start=lambda: said.append("started"), open_job="open")
    early = SimpleNamespace(beside=lambda trials, job: (trials, job))
    self: Any = SimpleNamespace(plan=None, concurrent=2, baselines=baselines, early=early)
    monkeypatch.setattr(sweep, "takes_all", lambda *_: full)
    found: Any = sweep._Sweep._beside(self, {})
    assert found == ({}, "open")
    assert said == ([] if full else ["started"])
