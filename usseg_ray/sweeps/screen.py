"""What a sweep shows on the terminal: a live table while it runs, a ranked one at the end."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from usseg_ray.engine.baselines import label
from usseg_ray.scoring.objective import MIOU, digits, short
from usseg_ray.sweeps.tables import number, sampled
from usseg_ray.trials.trial import Trial

STATUS_STYLE = {
    "RUNNING": "cyan",
    "FINISHED": "green",
    "STOPPED": "yellow",
    "FAILED": "red",
    "KILLED": "red",
}


@dataclass(frozen=True)
class Pace:
    """What a sweep's time and money left follow from.

    Attributes:
        concurrent: Trials at a time.
        hour_price: Of a trial's GPUs for an hour; `None` if nobody said.
        later: Runs that follow, or run among the last of those on the screen already: the finalists
            with further seeds.
    """

    concurrent: int = 1
    hour_price: float | None = None
    later: int = 0

    def left(self, trials: Collection[Trial], total: int) -> float | None:
        """Estimates the seconds of training that are left, of all trials and later runs together.

        Args:
            trials: Those that have begun.
            total: How many there are in all.

        Returns:
            Seconds, by the mean of what a whole trial takes, as measured so far; `None` while no
            epoch has ended.
        """
        whole = [t.seconds * t.epochs / t.metrics["epoch"] for t in trials if t.seconds]
        if not whole:
            return None
        begun = [1 - t.metrics.get("epoch", 0) / t.epochs for t in trials if t.status == "RUNNING"]
        return sum(whole) / len(whole) * (sum(begun) + total - len(trials) + self.later)

    def line(self, trials: Collection[Trial], total: int) -> str:
        """Says how much time is left and, if hours have a price, what is spent and to come."""
        left = self.left(trials, total)
        if not left:
            return ""
        minutes = left / self.concurrent / 60
        text = f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left"
        if self.hour_price is None:
            return text
        spent = sum(t.seconds for t in trials) / 3600 * self.hour_price
        return f"{text}; spent {spent:.2f}, about {left / 3600 * self.hour_price:.2f} to come"


ROWS = 20

"""Ended trials in the live table: a longer one does not fit a terminal, and takes time to draw."""


class Screen:
    """Shows trials as they go: a live table on a terminal, a line per finished trial elsewhere.

    Args:
        console: Where to print.
        total: How many there are.
        what: What they are called; finalists among them are counted apart.
        pace: What time and money left follow from.

    Attributes:
        floors: Baseline -> score on the split that trials are ranked on, when they are known.
    """

    def __init__(
        self, console: Console, total: int, what: str = "trials", pace: Pace = Pace()
    ) -> None:
        self.floors: Mapping[str, float] = {}
        self._total, self._pace = total, pace
        self._console = console
        self._trials: dict[str, Trial] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._progress.add_task(what, total=total)
        later = self._pace.later
        self._finals = self._progress.add_task("finalists", total=later, visible=False)
        self._live = Live(self._render(), console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    @property
    def to_come(self) -> int:
        """How many runs have not begun, later ones included."""
        return self._total - len(self._trials) + self._pace.later

    def show(self, trial: Trial) -> None:
        """Takes a trial's new state."""
        self._trials[trial.name] = trial
        if self._console.is_terminal:
            self._count()
            self._live.update(self._render())
        elif trial.status != "RUNNING":
            score = "no score" if trial.score is None else f"{trial.objective} {_score(trial)}"
            reason = f" ({trial.reason})" if trial.reason else ""
            what = f"{trial.method}  {sampled(trial.sample)}"
            line = f"{trial.name} {trial.status.lower()}: {score}  {what}{reason}"
            pace = self._pace.line(self._trials.values(), self._total)
            self._console.print(escape(f"{line}; {pace}" if pace else line), highlight=False)

    def say(self, what: str) -> None:
        """Prints a line above the table."""
        self._console.print(escape(what), highlight=False)

    def _count(self) -> None:
        apart = self._pace.later > 0  # else all of them are of one kind
        begun = [trial for trial in self._trials.values() if apart and trial.seed is not None]
        finals = sum(trial.status != "RUNNING" for trial in begun)
        ended = sum(trial.status != "RUNNING" for trial in self._trials.values())
        self._progress.update(self._task, completed=ended - finals)
        total = max(self._pace.later, len(begun))
        self._progress.update(self._finals, completed=finals, total=total, visible=bool(begun))

    def _render(self) -> Group:
        ranks = {trial.objective for trial in self._trials.values()} or {MIOU}
        columns = ("trial", "method", "state", "epoch", "loss", *map(short, ranks), "settings")
        table = Table(*columns, box=None)
        shown = [t for t in self._trials.values() if t.status == "RUNNING"]
        ended = [t for t in self._trials.values() if t.status != "RUNNING"]
        for trial in sorted(shown + ended[-ROWS:], key=lambda t: t.name):
            style = STATUS_STYLE[trial.status]
            epoch = int(trial.metrics.get("epoch", 0))
            table.add_row(
                escape(trial.name),
                escape(trial.method),
                f"[{style}]{trial.status.lower()}[/]",
                f"{epoch}/{trial.epochs}",
                number(trial.metrics.get("loss"), 4),
                _score(trial),
                escape(sampled(trial.sample)),
            )
        for name, score in self.floors.items():
            cells = ("", f"[dim]{escape(label(name))}[/]", "", "", "", number(score, 1), "")
            table.add_row(*cells)
        pace = self._pace.line(self._trials.values(), self._total)
        return Group(self._progress, *([pace] if pace else []), table)


def _score(trial: Trial) -> str:
    """Formats what a trial is ranked by."""
    return number(trial.score, digits(trial.objective))
