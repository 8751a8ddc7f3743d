import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.reader import Reader
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.trials.forecast import (
    ROWS,
    SHORT_S,
    _Clock,
    _EnoughError,
    choose,
    clock_of,
    excerpt,
    longest_seconds,
    trial_time,
)
from usseg_ray.trials.job import Job, Placement

LARGE = {"train": 3 * ROWS, "val": 2 * ROWS}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("set")
    tiny.write(folder)
    return str(folder)


def job(root: str, method: str = "acseg", **settings: Any) -> Job:
    return Job(method, tiny.config(method, **settings), root, Placement(reading="unused"))


def test_short_trials_run_in_their_own_process() -> None:
    choice = choose(21.3)
    assert choice.num_workers == 0
    assert choice.reason == (
        "Trials run in their own process: about 21 s each (--workers-per-trial 1 for worker groups)"
    )


@pytest.mark.parametrize("seconds", [SHORT_S, 340.0])
def test_long_trials_have_a_worker_group(seconds: float) -> None:
    choice = choose(seconds)
    assert choice.num_workers == 1
    assert f"about {seconds / 60:.0f} min each (--workers-per-trial 0" in choice.reason


def test_a_forecast_grows_with_epochs_and_steps(root: str) -> None:
    few = trial_time(job(root), budget=0.5).seconds
    many = trial_time(job(root, train__epochs=400), budget=0.5).seconds
    long = trial_time(job(root, train__steps_per_epoch=10**6), budget=0.5).seconds
    assert 0 < few < SHORT_S
    assert many > 20 * few
    assert long > SHORT_S


def test_a_set_larger_than_the_excerpt_takes_longer(root: str, tmp_path: Path) -> None:
    tiny.write(tmp_path, splits={"train": 40 * ROWS, "val": 40 * ROWS})
    few = trial_time(job(root, train__epochs=1), budget=0.5).seconds
    assert trial_time(job(str(tmp_path), train__epochs=1), budget=0.5).seconds > 5 * few


def epoch(clock: _Clock) -> None:
    state = RunState(1, {}, {})
    clock.after_step(lambda: state)
    clock.after_step(lambda: state)
    clock.report({}, state, None)


def test_what_is_loaded_in_the_first_epoch_does_not_count() -> None:
    # Begun, two steps and the end of an epoch, twice.
    worked = iter([0.0, 50.0, 70.0, 75.0, 75.7, 75.9, 80.0])
    clock = _Clock(torch.device("cpu"), 10, lambda: next(worked), budget=0.0)
    epoch(clock)
    with pytest.raises(_EnoughError):
        epoch(clock)
    assert clock.image_seconds == pytest.approx(0.02)
    assert clock.rest_seconds == pytest.approx(0.5)


def test_a_trial_trains_once_and_is_scored_as_often_as_it_says(root: str) -> None:
    found = trial_time(job(root, train__epochs=5, train__eval_every=2), budget=0.1)
    assert found.scores == 2
    assert found.seconds == found.training + 2 * found.scoring
    assert min(found.training, found.scoring) > 0
    long: dict[str, Any] = {"train__steps_per_epoch": 10**6}
    assert trial_time(job(root, **long), budget=0.1).scoring == 0
    assert trial_time(job(root, **long), budget=0.1, scored=True).scoring > 0


def test_what_every_epoch_takes_does_not_grow_with_the_images(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(tmp_path, splits={"train": 40 * ROWS, "val": 4})
    read = Reader.training

    def slowly(self: Reader, epochs: range, steps: int, batch_size: int) -> Iterator[Any]:
        for batches in read(self, epochs, steps, batch_size):
            until = time.process_time() + 0.05
            while time.process_time() < until:
                pass
            yield batches

    monkeypatch.setattr(Reader, "training", slowly)
    settings: dict[str, Any] = {
        "train__epochs": 4,
        "train__steps_per_epoch": 1,
        "train__batch_size": 2,
    }
    few, many = (trial_time(job(place, **settings), budget=0.1) for place in (root, str(tmp_path)))
    assert few.training > 4 * 0.05
    assert many.training < 2 * few.training


def test_waiting_for_a_busy_machine_does_not_count(root: str) -> None:
    worked = clock_of(job(root).config, torch.device("cpu"))
    before, began = worked(), time.monotonic()
    time.sleep(0.2)
    assert worked() - before < 0.1
    while worked() - before < 0.1:
        pass
    assert time.monotonic() - began > 0.2


def test_two_threads_work_twice_as_fast_and_a_gpu_has_the_walls_clock(root: str) -> None:
    two = clock_of(job(root, resources__threads=2).config, torch.device("cpu"))
    assert two() == pytest.approx(time.process_time() / 2, abs=0.05)
    assert clock_of(job(root).config, torch.device("cuda")) is time.monotonic


def test_a_method_without_stages_is_only_scored(root: str) -> None:
    assert 0 < trial_time(job(root, "kmeans")).seconds < SHORT_S


def test_data_without_labels_or_selection_split(tmp_path: Path) -> None:
    tiny.write(tmp_path, labelled=False, splits={"train": 9})
    assert 0 < trial_time(job(str(tmp_path)), budget=0.1).seconds < SHORT_S


def test_the_longest_of_several_methods_counts(root: str) -> None:
    jobs = [job(root, "kmeans"), job(root, train__steps_per_epoch=10**6)]
    assert longest_seconds(jobs) > SHORT_S


def shards(manifest: Manifest) -> list[tuple[str, int, int]]:
    return [(shard.split, shard.rows, shard.labelled) for shard in manifest.shards]


def test_anexcerpt_has_the_first_rows_of_each_split(tmp_path: Path) -> None:
    whole = tiny.write(tmp_path, splits=LARGE)
    part = excerpt(whole, {"val"})
    assert shards(part) == [("val", 4, 4)] * (ROWS // 4)
    assert part.splits["val"].rows == part.splits["val"].labelled == ROWS
    both = excerpt(whole, {"train", "val"})
    assert {name: info.rows for name, info in both.splits.items()} == {"train": ROWS, "val": ROWS}
    assert [shard.path for shard in part.shards] == [
        shard.path for shard in whole.shards_of("val")[: ROWS // 4]
    ]


def test_anexcerpt_cuts_the_shard_that_is_too_long(tmp_path: Path) -> None:
    whole = tiny.write(tmp_path, splits=LARGE)
    first = whole.shards_of("train")[0]
    long = first.model_copy(update={"rows": 40, "labelled": 39, "row_groups": (10, 10, 20)})
    part = excerpt(whole.model_copy(update={"shards": (long,)}), {"train"})
    (shard,) = part.shards
    assert shard.row_groups == (10, 6)
    # Nobody knows which row has no label.
    assert (shard.rows, shard.labelled) == (16, 0)


def test_a_small_split_is_whole(tmp_path: Path) -> None:
    whole = tiny.write(tmp_path)
    assert excerpt(whole, {"val"}).splits["val"] == whole.splits["val"]
