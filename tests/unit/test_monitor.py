import pytest

from usseg_ray import monitor
from usseg_ray.monitor import Waits


def test_who_waits_for_room_is_told_of_once_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = ["1 CPU asked for, 0 of 2 free on 2 nodes"]
    monkeypatch.setattr(monitor, "lacking", lambda: lacks[0])
    said: list[str] = []
    waits = Waits(said.append, every_s=0.0)
    waits.look(["trial_001"])
    assert said == []
    waits.look(["trial_001", "trial_002"])
    waits.look(["trial_001"])
    assert said == [
        "Waiting for room in the cluster: trial_001 (1 CPU asked for, 0 of 2 free on 2 nodes). "
        "A node that joins is used at once."
    ]
    waits.look([])
    waits.look(["trial_001"])
    waits.look(["trial_001"])
    assert len(said) == 2
    lacks[0] = ""
    waits.look(["trial_001"])
    assert len(said) == 2


def test_looks_are_seldom() -> None:
    said: list[str] = []
    waits = Waits(said.append, every_s=1000.0)
    for _ in range(3):
        waits.look(["trial_001"])
    assert said == []
