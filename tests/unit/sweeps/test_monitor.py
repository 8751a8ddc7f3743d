import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.told import trial
from usseg_ray.core.errors import UserError
from usseg_ray.sweeps import monitor
from usseg_ray.sweeps.monitor import Monitor, Waits
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.trainer import BASELINES
from usseg_ray.trials.trial import WORKERS, Trial, load_trials


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


def test_a_request_that_stands_open_for_a_moment_is_no_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacks = iter(["", "1 CPU asked for", "", "1 CPU asked for"])
    monkeypatch.setattr(monitor, "lacking", lambda: next(lacks))
    said: list[str] = []
    waits = Waits(said.append, every_s=0.0)
    for _ in range(4):
        waits.look(["trial_001"])
    assert said == []


@pytest.mark.parametrize(
    ("waited", "told"), [((5, 12), 0), ((5, 19), 0), ((12, 19), 0), ((9, 21), 1), ((0, 40), 1)]
)
def test_only_who_waits_longer_than_ten_seconds_is_told_of(
    waited: tuple[int, int], told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(monitor, "lacking", lambda: "1 CPU asked for")
    monkeypatch.setattr(time, "monotonic", lambda: now)
    said: list[str] = []
    waits = Waits(said.append)
    for second in range(50):
        now = float(second)
        waits.look(["trial_001"] if waited[0] <= second < waited[1] else [])
    assert len(said) == told


@pytest.mark.parametrize(("workers", "silent"), [(0, set[str]()), (1, {"trial_001"})])
def test_a_trial_that_has_begun_waits_for_its_workers_alone(workers: int, silent: set[str]) -> None:
    record = trial(1, None)
    record.settings[WORKERS] = workers
    shown: list[Trial] = []
    seen: Any = SimpleNamespace(
        _open=lambda _: record, _silent=set(), screen=SimpleNamespace(show=shown.append)
    )
    Monitor.on_trial_start(seen, cast(Any, SimpleNamespace(config={"trial": "trial_001"})))
    assert (seen._silent, shown) == (silent, [record])


@pytest.mark.parametrize(
    ("pending", "running", "looked"), [(1, True, 0), (1, False, 1), (2, True, 2)]
)
def test_a_trial_whose_place_the_baselines_have_does_not_wait(
    pending: int, running: bool, looked: int
) -> None:
    seen: list[set[str]] = []
    monitor: Any = SimpleNamespace(
        _silent=set(),
        baselines=SimpleNamespace(is_running=running),
        waits=SimpleNamespace(look=seen.append),
    )
    trials: list[Any] = [
        SimpleNamespace(status="PENDING", config={"trial": f"trial_{n}"}) for n in range(pending)
    ]
    Monitor.on_step_begin(monitor, trials)
    assert [len(names) for names in seen] == [looked]


def test_baselines_in_a_trials_process_are_no_trial() -> None:
    told: list[str] = []
    # Whatever else of the monitor they touched would be missing.
    monitor: Any = SimpleNamespace(
        _silent=set(),
        baselines=SimpleNamespace(fetch=lambda: told.append("there"), is_running=False),
        waits=SimpleNamespace(look=told.extend),
    )
    trial: Any = SimpleNamespace(status="PENDING", config={"trial": BASELINES}, error_file=None)
    Monitor.on_step_begin(monitor, [trial])
    Monitor.on_trial_start(monitor, trial)
    Monitor.on_trial_result(monitor, trial, {"baselines": 1})
    Monitor.on_trial_complete(monitor, trial)
    assert told == ["there"]


def test_baselines_that_fail_in_a_trials_process_end_the_sweep_with_their_cause(
    tmp_path: Path,
) -> None:
    file = tmp_path / "error.txt"
    file.write_text("Failure # 1\nTraceback\nOSError: s3://ID:HUNTER@bucket/set: no such host\n")
    failed: Any = SimpleNamespace(config={"trial": BASELINES}, error_file=str(file))
    with pytest.raises(UserError, match=r"^The baselines .*: OSError: s3://\*\*\*@bucket/set: no"):
        Monitor.on_trial_error(cast(Monitor, None), failed)
    assert "HUNTER" not in file.read_text()


def test_a_finalist_that_runs_among_the_trials_has_its_own_place(tmp_path: Path) -> None:
    shown: list[Trial] = []
    monitor: Any = Monitor(
        storage=Storage(tmp_path),
        truth=None,
        palette=None,
        protocol="",
        ledger=cast(Any, SimpleNamespace(log=lambda *_: None)),
        screen=cast(Any, SimpleNamespace(show=shown.append)),
        trials={},
        waits=Waits(print),
        baselines=cast(Any, SimpleNamespace(so_far=dict)),
        split="val",
    )
    for name, place in (("trial_001", ""), ("trial_001-seed3", "finalists")):
        record = trial(1, None)
        record.seed = 3 if place else None
        monitor.trials[name] = record
        reported: Any = SimpleNamespace(config={"trial": name})
        result = {"epoch": 1, "time_total_s": 2.0, "checkpoint_path": "/there/epoch_0001"}
        monitor.on_trial_result(reported, result)
        home = tmp_path / place
        assert load_trials(home) == [record]
        assert record.checkpoint == str(home / name / "train" / "epoch_0001")
    assert len(shown) == 2


def test_looks_are_seldom() -> None:
    said: list[str] = []
    waits = Waits(said.append, every_s=1000.0)
    for _ in range(3):
        waits.look(["trial_001"])
    assert said == []


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        ("Failure # 1 (occurred at noon)\nThe actor died because its node has died. Node Id: 1", 0),
        ("Failure # 1 (occurred at noon)\nThe actor is temporarily unavailable: RPC error", 0),
        ("Failure # 1 (occurred at noon)\nNonFiniteLossError: loss is nan", 1),
        (
            "Failure # 1 (occurred at noon)\nits node has died\n"
            "Failure # 1 (occurred at one)\nNonFiniteLossError: loss is nan",
            1,
        ),
    ],
)
def test_a_lost_node_is_no_failure_of_the_trial(tmp_path: Path, said: str, counted: int) -> None:
    file = tmp_path / "error.txt"
    file.write_text(said)
    failed: Any = SimpleNamespace(
        error_file=str(file), run_metadata=SimpleNamespace(num_failures=1)
    )
    Monitor.on_trial_recover(cast(Monitor, None), failed)
    assert failed.run_metadata.num_failures == counted


def test_what_is_kept_of_a_failure_has_no_secrets(tmp_path: Path) -> None:
    file = tmp_path / "error.txt"
    file.write_text("Traceback\nOSError: s3://ID:HUNTER@bucket/set: no such host\n")
    (tmp_path / "error.pkl").write_bytes(b"HUNTER")
    failed: Any = SimpleNamespace(error_file=str(file), run_metadata=SimpleNamespace())
    Monitor.on_trial_recover(cast(Monitor, None), failed)
    assert [path.name for path in tmp_path.iterdir()] == ["error.txt"]
    assert file.read_text() == "Traceback\nOSError: s3://***@bucket/set: no such host\n"
