import io
from pathlib import Path

import pytest
from rich.console import Console

from tests import tiny
from usseg_ray.sweeps import form
from usseg_ray.sweeps.form import choose_form, concurrent_trials, takes_all
from usseg_ray.sweeps.plan import make_plan
from usseg_ray.sweeps.request import Request, with_spaces
from usseg_ray.trials.trial import Trial


def chosen(root: Path, workers: int | str, folder: Path) -> tuple[int | str, str]:
    assigned = {**tiny.SETTINGS, "resources.num_workers": workers}
    assigned.pop("data.name")
    request = Request(
        data=str(root), methods=with_spaces(["kmeans"], None), assigned=assigned, search="random"
    )
    said = io.StringIO()
    plan = choose_form(make_plan(request), folder, Console(file=said))
    return plan.config.resources.num_workers, said.getvalue()


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


@pytest.mark.parametrize(
    ("asked", "workers", "expected"),
    [(None, 0, (2, True)), (1, 0, (1, False)), (None, 1, (2, False))],
)
def test_baselines_have_a_process_of_their_own_where_trials_leave_room(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: int | None,
    workers: int,
    expected: tuple[int, bool],
) -> None:
    tiny.write(tmp_path)
    monkeypatch.setattr(form, "max_concurrent_trials", lambda *_: 2)
    assigned = {**tiny.SETTINGS, "resources.num_workers": workers}
    assigned.pop("data.name")
    methods = with_spaces(["acseg"], None)
    request = Request(
        data=str(tmp_path), methods=methods, assigned=assigned, num_samples=3, max_concurrent=asked
    )
    plan = make_plan(request)
    concurrent = concurrent_trials(plan, "cpu")
    assert (concurrent, takes_all(plan, concurrent)) == expected
