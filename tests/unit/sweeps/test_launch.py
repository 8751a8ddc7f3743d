import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.planned import TINY_SETTINGS, plan, request
from usseg_ray.core.cli import console
from usseg_ray.core.config import DataConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import UNFINISHED
from usseg_ray.core.lock import LOCK_FILE, only_one
from usseg_ray.data.library import open_data
from usseg_ray.features.presets import backbone_settings
from usseg_ray.sweeps.launch import claimed, launch, new_folder, print_plan, reopened
from usseg_ray.sweeps.plan import make_plan
from usseg_ray.sweeps.request import REQUEST_FILE, Request, assignments
from usseg_ray.trials.storage import Storage


def assigned(*texts: str, **short: Any) -> dict[str, Any]:
    options = dict.fromkeys(("backbone", "device", "precision", "seed", "workers"))
    return assignments(list(texts), **options | short)


def test_options_that_are_not_given_assign_nothing() -> None:
    assert assigned() == {}


@pytest.mark.parametrize(("given", "value"), [("auto", "auto"), ("0", 0), ("2", 2), ("-1", "-1")])
def test_workers_per_trial_is_short_for_a_key(given: str, value: object) -> None:
    assert assigned(workers=given) == {"resources.num_workers": value}


def test_set_wins_over_the_options_that_are_short_for_it() -> None:
    found = assigned("resources.num_workers=auto", "seed=3", workers="0", seed=1, device="cpu")
    assert found == {"resources.num_workers": "auto", "seed": 3, "resources.device": "cpu"}


def test_set_wins_over_a_backbone_in_one_word() -> None:
    found = assigned("backbone.note=mine", backbone="mobilenetv2")
    assert found == backbone_settings("mobilenetv2") | {"backbone.note": "mine"}


def test_a_resumed_run_needs_no_file_of_its_backbone(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: textons\npatch_size: 4\nnote: of mine\n")
    first = asked(assigned=assigned("backbone.patch_size=16", backbone=str(file)))
    first.save(tmp_path)
    file.unlink()
    again = Request.load(tmp_path)
    assert again == first
    made = plan(assigned=again.assigned).config.backbone
    assert (made.name, made.patch_size, made.note) == ("textons", 16, "of mine")


def test_keys_are_for_a_dry_run() -> None:
    with pytest.raises(UserError, match="--keys is for --dry-run"):
        launch(asked(), None, None, dry_run=False, keys=True)


def printed(data: Path, *, keys: bool, **changes: Any) -> str:
    made = plan(data=str(data), assigned=TINY_SETTINGS, num_samples=2, **changes)
    with console.capture() as captured:
        print_plan(made, keys=keys)
    return captured.get()


def test_a_dry_run_prints_trials_and_time_and_keys_only_if_asked(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    short = printed(tmp_path, keys=False)
    parts = [short.index(what) for what in ("2 trials", "Scores: ", "Time on this", "Dry run: ")]
    assert parts == sorted(parts)
    assert "finalists 4 runs" in short
    assert "--keys adds the resolved keys" in short
    assert "method.lr" not in short.split("Scores: ")[1]
    long = printed(tmp_path, keys=True)
    parts = [long.index(what) for what in ("Time on this", "Resolved config", "crop_jpeg")]
    assert parts == sorted(parts)


def test_a_dry_run_times_the_built_in_data_once_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("USSEG_FEATURES", str(tmp_path / "features"))
    monkeypatch.setattr("usseg_ray.data.synthetic.SPLITS", {"train": 20, "val": 4, "test": 4})
    for is_made, said in ((False, "Time: unknown until"), (True, "Time on this machine's")):
        if is_made:
            open_data(DataConfig())
        plan = make_plan(asked(data="synthetic"), make_data=False)
        with console.capture() as captured:
            print_plan(plan, keys=False)
        assert said in captured.get()
        assert re.search(r"Disk: about [\d.]+ MB for checkpoints", captured.get())


@pytest.mark.parametrize(
    ("shape", "protocol", "said"),
    [
        ((64, 32), "centre-crop", "leaves out 50% of the training images"),
        ((64, 32), "squashed", ""),
        ((40, 36), "centre-crop", ""),
    ],
)
def test_a_plan_says_how_much_the_centre_square_leaves_out(
    tmp_path: Path, shape: tuple[int, int], protocol: str, said: str
) -> None:
    tiny.write(tmp_path, shape=shape)
    made = plan(data=str(tmp_path), assigned=TINY_SETTINGS | {"protocol": protocol})
    with console.capture() as captured:
        print_plan(made, keys=False)
    text = " ".join(captured.get().split())
    assert (said in text) if said else ("leaves out" not in text)


def asked(storage: str = "", **changes: Any) -> Request:
    options: dict[str, Any] = {"assigned": {}, "num_samples": 1, "search": "random", "data": "d"}
    return Request(methods={"acseg": None}, scheduler="none", storage=storage, **options | changes)


def test_a_new_run_takes_no_place_that_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = (tmp_path / "bucket" / "first").as_uri()
    assert new_folder(asked(), "here") == Path("here")
    assert new_folder(asked(uri), uri) == Path("runs/first")
    Path("runs/first").mkdir(parents=True)
    Path("runs/first/x").touch()
    with pytest.raises(UserError, match=r"first is not empty \(runs/first\): --resume file://"):
        new_folder(asked(uri), uri)
    Path("runs/first/x").rename(tmp_path / "x")
    Storage(tmp_path, uri).push("x")
    with pytest.raises(UserError, match="first is not empty: --resume file://"):
        new_folder(asked(uri), uri)


def test_a_run_at_a_uri_is_found_again_with_and_without_a_slash_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home, there = tmp_path / "runs" / "first", (tmp_path / "bucket" / "first").as_uri()
    home.mkdir(parents=True)
    for kept in (f"{there}/", there):
        asked(kept).save(home)
        Storage(home, kept).push(REQUEST_FILE)
        (home / REQUEST_FILE).unlink()
        (home / LOCK_FILE).touch()  # which a command that broke off at once leaves alone
        for uri in (there, f"{there}/", there):
            folder, found = reopened(uri)
            assert (folder, found.storage) == (Path("runs/first"), kept)
    asked("s3://other/first").save(home)
    with pytest.raises(UserError, match="runs/first is another run"):
        reopened(there)


def test_commands_of_one_second_have_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: claimed(tmp_path / "runs" / "a"), range(20)))
    assert len(set(found)) == 20
    assert all(folder.is_dir() for folder in found)


def test_a_lock_that_a_killed_command_left_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("here/.lock").touch()
    assert new_folder(asked(), "here") == Path("here")


def test_a_run_is_reopened_by_its_uri_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = (tmp_path / "bucket" / "first").as_uri()
    driver = Storage(tmp_path / "driver", uri)
    (driver.folder / "trial_000").mkdir(parents=True)
    asked(uri, key="k").save(driver.folder)
    for name in ("trial.json", "evaluation.npz"):
        (driver.folder / "trial_000" / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no run is kept there \(sweep.yaml is missing\)"):
        reopened(uri)
    driver.push("sweep.yaml", "trial_000")
    folder, request = reopened(uri)
    assert (folder, request.key, request.storage) == (Path("runs/first"), "k", uri)
    assert (folder / "trial_000" / "trial.json").is_file()
    assert (folder / "trial_000" / "evaluation.npz").is_file()
    # The folder says where it is kept.
    (folder / "trial_000" / "trial.json").unlink()
    assert reopened("first")[1].storage == uri
    assert (folder / "trial_000" / "trial.json").is_file()
    asked("", key="another").save(folder)
    with pytest.raises(UserError, match="runs/first is another run"):
        reopened(uri)


def a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a run that has begun, named `mine`."""
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path / "set")
    folder = Path("runs/mine")
    folder.mkdir(parents=True)
    small = request(data="set", assigned=TINY_SETTINGS, space=None, num_samples=1)
    small.begun("k").save(folder)
    return folder


def test_what_a_killed_writer_left_unfinished_is_gone_when_its_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_run(tmp_path, monkeypatch)
    left = [folder / name / f".1234{UNFINISHED}" for name in (".", "trial_000")]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half")
    monkeypatch.setattr("usseg_ray.sweeps.sweep.run_sweep", lambda *_: None)
    launch(None, None, "mine", dry_run=False)
    assert not [file for file in left if file.exists()]


def test_sigterm_is_ctrl_c_while_it_runs_and_what_it_was_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(tmp_path, monkeypatch)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        "usseg_ray.sweeps.sweep.run_sweep", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(KeyboardInterrupt):
        launch(None, None, "mine", dry_run=False)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_may_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, ran = a_run(tmp_path, monkeypatch), list[Path]()
    monkeypatch.setattr(
        "usseg_ray.sweeps.sweep.run_sweep", lambda _plan, run, _console: ran.append(run)
    )
    with ThreadPoolExecutor(1) as thread:
        thread.submit(launch, None, None, "mine", dry_run=False).result()
    assert ran == [folder.resolve()]


def test_a_run_that_another_process_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_run(tmp_path, monkeypatch)
    before = (folder / REQUEST_FILE).read_text()
    with (
        only_one(folder / LOCK_FILE, "this run"),
        pytest.raises(UserError, match=rf"this run is held by process {os.getpid()} on "),
    ):
        launch(None, None, "mine", dry_run=False)
    assert (folder / REQUEST_FILE).read_text() == before
