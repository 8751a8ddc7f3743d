"""What a sweep chooses before it starts; the sweep itself needs Ray."""

import io
from pathlib import Path

from rich.console import Console

from tests import tiny
from usseg_ray.sweeps.plan import make_plan
from usseg_ray.sweeps.request import Request, with_spaces
from usseg_ray.sweeps.sweep import _num_workers
from usseg_ray.trials.trial import Trial


def chosen(root: Path, workers: int | str, folder: Path) -> tuple[int | str, str]:
    assigned = {**tiny.SETTINGS, "resources.num_workers": workers}
    assigned.pop("data.name")
    request = Request(
        data=str(root), methods=with_spaces(["kmeans"], None), assigned=assigned, search="random"
    )
    said = io.StringIO()
    return _num_workers(make_plan(request), folder, Console(file=said)), said.getvalue()


def test_the_form_that_a_user_asks_for_is_taken(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    assert chosen(tmp_path / "set", 2, tmp_path / "run") == (2, "")


def test_a_resumed_sweep_keeps_to_its_form(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    run = tmp_path / "run"
    run.mkdir()
    Trial(0, "kmeans", {}, {"resources.num_workers": 1}, 2).save(run)
    assert chosen(tmp_path / "set", "auto", run) == (1, "")


def test_short_trials_need_no_group(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    (tmp_path / "run").mkdir()
    workers, said = chosen(tmp_path / "set", "auto", tmp_path / "run")
    assert workers == 0
    assert said.startswith("Trials run in their own process")
