import tempfile
from pathlib import Path
from typing import Any

import pytest
import ray.train
import ray.tune
import torch

from tests import tiny
from tests.fitting import equal_states, run_of, timeless
from usseg_ray.core.files import UNFINISHED
from usseg_ray.engine.checkpoint import BEST, RunState
from usseg_ray.engine.context import RunContext
from usseg_ray.scoring.evaluation import Evaluation
from usseg_ray.trials.contexts import LOOK_EVERY, SAVING, TrainContext, TuneContext
from usseg_ray.trials.storage import Storage, opened
from usseg_ray.trials.trial import CHECKPOINTS

# No Tune listens here.
pytestmark = pytest.mark.filterwarnings("ignore:.*inside a function that is executed by a Tuner")
CPU = torch.device("cpu")


def state(epoch: int) -> RunState:
    return RunState(epoch, {"epoch": float(epoch)}, {"w": torch.ones(epoch)})


def epoch_in(context: TuneContext) -> int | None:
    found = context.restore()
    return None if found is None else found.epoch


def report(context: TuneContext, epoch: int) -> None:
    context.report({"epoch": float(epoch)}, state(epoch), None)


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / CHECKPOINTS).iterdir())


def test_the_last_two_states_are_kept_and_the_last_restored(tmp_path: Path) -> None:
    context = TuneContext(CPU, Storage(tmp_path))
    assert isinstance(context, RunContext)
    assert context.restore() is None
    for epoch in (9, 10, 11):
        report(context, epoch)
        assert kept(tmp_path) == [f"epoch_{n:04d}" for n in (epoch - 1, epoch) if n >= 9]
    restored = TuneContext(CPU, Storage(tmp_path)).restore()
    assert restored is not None
    assert (restored.epoch, len(restored.method["w"])) == (11, 11)
    assert not (tmp_path / BEST).exists()


def test_what_is_left_for_others_is_found_by_them(tmp_path: Path) -> None:
    alone = TuneContext(CPU, Storage(tmp_path / "trial_000"))
    alone.leave(state(2))
    assert alone.trained() is None
    assert list(tmp_path.iterdir()) == []
    shared = str(tmp_path / "trained" / "abc")
    for context in (TuneContext, TrainContext):
        first, second = (context(CPU, Storage(tmp_path / name), shared) for name in "ab")
        first.leave(state(3))
        found = second.trained()
        assert found is not None
        assert found.epoch == 3


def test_a_restored_state_is_reported_again_and_stays(tmp_path: Path) -> None:
    report(TuneContext(CPU, Storage(tmp_path)), 3)
    checkpoint = tmp_path / CHECKPOINTS / "epoch_0003" / "checkpoint.pt"
    before = checkpoint.stat().st_mtime_ns
    report(TuneContext(CPU, Storage(tmp_path)), 3)
    assert checkpoint.stat().st_mtime_ns == before


def test_what_a_kill_left_half_written_is_passed_over_and_cleared(tmp_path: Path) -> None:
    report(TuneContext(CPU, Storage(tmp_path)), 1)
    half = tmp_path / CHECKPOINTS / "epoch_0002"
    half.mkdir()
    (half / f".torn{UNFINISHED}").write_bytes(b"torn")
    again = TuneContext(CPU, Storage(tmp_path))
    restored = again.restore()
    assert restored is not None
    assert restored.epoch == 1
    for epoch in (2, 3, 4):
        report(again, epoch)
    assert kept(tmp_path) == ["epoch_0003", "epoch_0004"]
    assert epoch_in(again) == 4


@pytest.mark.parametrize("damage", [b"", b"x" * 500, None])
def test_a_damaged_state_is_set_aside_for_the_one_before(
    tmp_path: Path, damage: bytes | None
) -> None:
    context = TuneContext(CPU, Storage(tmp_path))
    for epoch in (1, 2):
        report(context, epoch)
    file = tmp_path / CHECKPOINTS / "epoch_0002" / "checkpoint.pt"
    # Nothing, something else, or its first half.
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if damage is None else damage)
    assert epoch_in(context) == 1
    report(context, 2)
    assert epoch_in(TuneContext(CPU, Storage(tmp_path))) == 2


def test_all_states_are_there_until_the_sweep_has_taken_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, seen = TuneContext(CPU, Storage(tmp_path)), []
    for epoch in (0, 1):
        report(context, epoch)

    def stop(metrics: dict[str, Any]) -> None:
        seen.append((metrics["checkpoint_path"], kept(tmp_path)))
        raise SystemExit

    monkeypatch.setattr(ray.tune, "report", stop)
    with pytest.raises(SystemExit):
        report(context, 2)
    names = ["epoch_0000", "epoch_0001", "epoch_0002"]
    assert seen == [(str(tmp_path / CHECKPOINTS / "epoch_0002"), names)]
    assert kept(tmp_path) == names[1:]


def test_a_run_at_a_uri_goes_on_on_another_machine(tmp_path: Path) -> None:
    kept_at = tmp_path / "bucket" / "trial_000"
    uri = kept_at.as_uri()
    with opened(uri) as first:
        for epoch in (1, 2):
            report(TuneContext(CPU, first), epoch)
    # An object store shows the folder of a file that is still under way.
    (kept_at / CHECKPOINTS / "epoch_0003").mkdir()
    with opened(uri) as second:
        context = TuneContext(CPU, second)
        assert epoch_in(context) == 2
        report(context, 3)
    assert kept(kept_at) == ["epoch_0002", "epoch_0003"]
    assert (kept_at / CHECKPOINTS / "epoch_0003" / "checkpoint.pt").is_file()


def test_what_a_killed_rank_was_saving_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)
    half = Path(tempfile.mkdtemp(prefix=SAVING, dir=tmp_path))
    (half / "checkpoint.pt").write_bytes(b"torn")
    assert TrainContext(CPU, Storage(tmp_path)).restore() is None
    assert not half.exists()


def test_a_version_of_ray_that_tells_of_no_preemption_does_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ray.train, "get_preemption_info")
    context, taken = TrainContext(CPU, Storage(tmp_path)), list[RunState]()

    def take() -> RunState:
        taken.append(state(1))
        return taken[-1]

    for _ in range(2 * LOOK_EVERY):
        context.after_step(take)
    assert taken == []


def test_the_bank_of_cause_is_written_once_an_epoch_and_only_while_it_serves(
    tmp_path: Path,
) -> None:
    data = str(tmp_path / "set"), tiny.write(tmp_path / "set")
    written: dict[int, int] = {}
    banks: dict[int, int] = {}

    def states() -> set[tuple[Path, int, int]]:
        found = [(file, file.stat()) for file in tmp_path.rglob("*.pt")]
        return {(file, stat.st_size, stat.st_mtime_ns) for file, stat in found}

    class Weighed(TuneContext):
        """Notes the bytes of all states that an epoch leaves, and stops after one."""

        def __init__(self, stop: int = 0) -> None:
            super().__init__(CPU, Storage(tmp_path / f"until_{stop}"))
            self.stop, self.history = stop, list[dict[str, float]]()

        def report(
            self, metrics: dict[str, float], state: RunState, evaluation: Evaluation | None
        ) -> None:
            before = states()
            super().report(metrics, state, evaluation)
            self.history.append(metrics)
            written[state.epoch] = sum(size for _, size, _ in states() - before)
            banks[state.epoch] = 4 * state.method["bank.values"].numel()
            if state.epoch == self.stop:
                raise KeyboardInterrupt

    settings = {
        "train__epochs": 2,
        "method__clustering": "probe",
        "method__projection_dim": 512,
        "method__bank_capacity": 100,
    }

    def fit(context: Weighed) -> Weighed:
        run, _ = run_of(data, "cause", **settings)
        run.context = context
        run.fit()
        return context

    # One epoch of the clusterbook, two of the concepts, one of the probe.
    whole = fit(Weighed())
    assert list(written) == [1, 2, 3, 4]
    assert [bank > 0 for bank in banks.values()] == [False, True, False, False]
    # What the optimiser of a stage remembers is as large after each of its epochs.
    assert abs(written[2] - written[3] - banks[2]) < 0.05 * banks[2]
    for stop in (2, 3):
        halted = Weighed(stop)
        with pytest.raises(KeyboardInterrupt):
            fit(halted)
        again = Weighed(stop)
        again.stop = 0
        fit(again)
        assert timeless(halted.history + again.history) == timeless(whole.history)
        assert equal_states(again.restore(), whole.restore())
