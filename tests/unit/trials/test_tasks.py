from pathlib import Path
from typing import cast

from usseg_ray.trials.job import Job
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.tasks import BASELINES_FILE, BaselineTask, load_baselines, save_baselines


def test_data_without_labels_have_no_baselines(tmp_path: Path) -> None:
    task = BaselineTask(None, Storage(tmp_path))
    assert (task.so_far(), task.wait()) == ({}, {})
    assert list(tmp_path.iterdir()) == []


def test_those_of_an_earlier_life_are_taken(tmp_path: Path) -> None:
    found = {"val": {"kmeans": 41.5}}
    save_baselines(found, tmp_path)
    task = BaselineTask(None, Storage(tmp_path))
    assert task.so_far() == task.wait() == found


def test_damaged_ones_are_computed_again(tmp_path: Path) -> None:
    assert load_baselines(tmp_path) is None
    (tmp_path / BASELINES_FILE).write_text('{"val": 3}')
    assert load_baselines(tmp_path) is None


def test_they_are_open_until_a_trials_process_has_computed_them(tmp_path: Path) -> None:
    job, there, found = cast(Job, "job"), tmp_path / "there", {"val": {"kmeans": 41.5}}
    task = BaselineTask(job, Storage(tmp_path / "here", there.as_uri()))
    assert (task.open_job, task.are_there, task.is_running, task.so_far()) == (
        job,
        False,
        False,
        {},
    )
    save_baselines(found, there)
    task.fetch()
    assert (task.open_job, task.are_there) == (None, True)
    task.start()
    assert not task.is_running
    assert task.so_far() == task.wait() == found
