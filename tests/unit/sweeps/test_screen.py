import io
from typing import cast

import pytest
from rich.console import Console
from rich.table import Table

from tests.told import cells, shown, trial
from usseg_ray.sweeps.screen import Pace, Screen
from usseg_ray.trials.trial import Status, Trial


def lines(*trials: Trial) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    with Screen(console, 2) as screen:
        for one in trials:
            screen.show(one)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def timed(index: int, epoch: int, seconds: float, status: Status = "RUNNING") -> Trial:
    found = Trial(index, "acseg", {}, {}, 4, status, {"epoch": epoch} if epoch else {})
    found.seconds = seconds
    return found


def test_time_left_follows_from_the_epochs_that_ended() -> None:
    pace = Pace(concurrent=2)
    # A whole trial takes 400 s; the second one is half done, the third has not reported.
    trials = [timed(0, 4, 400, "FINISHED"), timed(1, 2, 200), timed(2, 0, 0)]
    assert pace.left(trials, 5) == pytest.approx(400 * (0.5 + 1 + 2))
    assert pace.line(trials, 5) == "about 12 min left"
    assert pace.left([timed(0, 0, 0)], 5) is None
    assert pace.line([timed(0, 0, 0)], 5) == ""


def test_runs_that_follow_the_trials_take_time_as_well() -> None:
    # Two finalists with two further seeds each, of trials that take 400 s; later, 100 s.
    pace = Pace(concurrent=2, hour_price=9, later=4)
    assert pace.left([timed(0, 4, 400, "FINISHED")], 3) == pytest.approx(400 * (2 + 4))
    trials = [timed(0, 4, 400, "FINISHED"), timed(1, 4, 100, "FINISHED"), timed(2, 2, 50)]
    assert pace.left(trials, 3) == pytest.approx(200 * (0.5 + 4))
    assert pace.line(trials, 3) == "about 8 min left; spent 1.38, about 2.25 to come"


def test_money_follows_from_the_price_of_an_hour() -> None:
    trials = [timed(0, 4, 3600, "FINISHED"), timed(1, 2, 1800)]
    line = Pace(1, hour_price=2.5).line(trials, 4)
    assert line == "about 150 min left; spent 3.75, about 6.25 to come"


def test_the_live_table_has_the_floors() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with Screen(console, 2) as screen:
        screen.floors = {"position": 19.04}
        screen.show(trial(0, 30.0))
        assert "position (floor)" in shown(screen._render())
        assert "19.0" in shown(screen._render())


def test_elsewhere_than_on_a_terminal_every_ended_trial_is_a_line() -> None:
    running = trial(0, 1.0)
    running.status = "RUNNING"
    assert lines(running, running, trial(0, 25.0), trial(1, None)) == [
        "trial_000 finished: unsup_miou 25.0  acseg  gamma=0.333",
        "trial_001 finished: no score  acseg  gamma=0.333",
    ]


def test_there_time_left_is_corrected_by_each_trial_that_ended() -> None:
    console = Console(file=(shown := io.StringIO()), width=160)
    with Screen(console, 3, pace=Pace(later=1)) as screen:
        for number, seconds in enumerate((600, 60, 60)):
            screen.show(timed(number, 4, seconds, "FINISHED"))
    ends = [line.rpartition("; ")[2] for line in shown.getvalue().splitlines()]
    assert ends == ["about 30 min left", "about 11 min left", "about 4 min left"]
    assert Pace().line([timed(0, 4, 600, "FINISHED")], 1) == ""


@pytest.mark.parametrize("reason", ["expected [low, high]", "closed [/x/y] early", "ends in \\"])
def test_a_reason_is_shown_as_it_is(reason: str) -> None:
    failed = Trial(0, "acseg", {}, {}, 3, "FAILED", reason=reason)
    assert lines(failed) == [f"trial_000 failed: no score  acseg  defaults ({reason})"]


def test_on_a_terminal_a_table_follows_the_trials() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    running = trial(1, 12.5, loss=-0.25)
    running.status = "RUNNING"
    with Screen(console, 2) as screen:
        screen.show(trial(0, 25.0))
        screen.show(running)
        text = shown(screen._render())
    assert "1/2" in text
    assert "3/3" in text
    assert text.index("trial_000") < text.index("trial_001")
    assert "-0.2500" in text
    assert "running" in text


def test_the_live_table_does_not_grow_with_the_sweep() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with Screen(console, 100) as screen:
        for index in range(100):
            screen.show(trial(index, 1.0))
        running = trial(100, None)
        running.status = "RUNNING"
        screen.show(running)
        screen.say("said [once]")
        assert isinstance(console.file, io.StringIO)
        assert "said [once]" in console.file.getvalue()
        table = screen._render().renderables[1]
        assert isinstance(table, Table)
        assert [row[0] for row in cells(table)] == [f"trial_{i:03d}" for i in range(80, 101)]


def test_what_a_trial_drew_is_shown_as_it_is() -> None:
    drew = Trial(0, "acseg", {"backbone.name": "[/x]"}, {}, 3, "RUNNING")
    screen = Screen(Console(file=io.StringIO()), 1)
    screen._trials[drew.name] = drew
    assert "name=[/x]" in shown(screen._render())


def test_finalists_among_the_trials_are_counted_apart() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with Screen(console, 2, "trials", Pace(later=2)) as screen:
        screen.show(timed(0, 4, 10, "FINISHED"))
        assert "finalists" not in shown(screen._render())
        for seed, status in ((1, "FINISHED"), (2, "RUNNING"), (3, "RUNNING")):
            run = timed(0, 4, 10, cast(Status, status))
            run.seed = seed
            screen.show(run)
        (first, second, *_) = shown(screen._render()).splitlines()
    assert first.startswith("trials")
    assert "1/2" in first
    assert second.startswith("finalists")
    assert "1/3" in second  # one more than was planned: of a trial that was stopped early
