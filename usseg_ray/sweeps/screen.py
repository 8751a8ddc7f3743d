"""What a sweep shows on the terminal: a live table while it runs, a ranked one at the end."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from usseg_ray.baselines import CEILING, FLOORS, Baselines
from usseg_ray.objective import MIOU, digits, short
from usseg_ray.significance import Difference
from usseg_ray.sweeps.finals import Finalist
from usseg_ray.sweeps.trust import Trust, choice
from usseg_ray.trials import Trial, ranked

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
    """

    concurrent: int = 1
    hour_price: float | None = None

    def left(self, trials: Collection[Trial], total: int) -> float | None:
        """Estimates the seconds of training that are left, all trials' together.

        Args:
            trials: Those that have begun.
            total: How many there are in all.

        Returns:
            Seconds, by the mean of what a whole trial takes; `None` while no epoch has ended.
        """
        whole = [t.seconds * t.epochs / t.metrics["epoch"] for t in trials if t.seconds]
        if not whole:
            return None
        begun = [1 - t.metrics.get("epoch", 0) / t.epochs for t in trials if t.status == "RUNNING"]
        return sum(whole) / len(whole) * (sum(begun) + total - len(trials))

    def line(self, trials: Collection[Trial], total: int) -> str:
        """Says how much time is left and, if hours have a price, what is spent and to come."""
        left = self.left(trials, total)
        if left is None:
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
        what: What they are called.
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
        self._live = Live(self._render(), console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, trial: Trial) -> None:
        """Takes a trial's new state."""
        self._trials[trial.name] = trial
        if self._console.is_terminal:
            done = sum(t.status != "RUNNING" for t in self._trials.values())
            self._progress.update(self._task, completed=done)
            self._live.update(self._render())
        elif trial.status != "RUNNING":
            score = "no score" if trial.score is None else f"{trial.objective} {_score(trial)}"
            reason = f" ({trial.reason})" if trial.reason else ""
            what = f"{trial.method}  {sampled(trial.sample)}"
            line = f"{trial.name} {trial.status.lower()}: {score}  {what}{reason}"
            self._console.print(escape(line), highlight=False)

    def say(self, what: str) -> None:
        """Prints a line above the table."""
        self._console.print(escape(what), highlight=False)

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
                trial.name,
                trial.method,
                f"[{style}]{trial.status.lower()}[/]",
                f"{epoch}/{trial.epochs}",
                number(trial.metrics.get("loss"), 4),
                _score(trial),
                sampled(trial.sample),
            )
        for name, score in self.floors.items():
            cells = ("", f"[dim]{label(name)}[/]", "", "", "", number(score, 1), "")
            table.add_row(*cells)
        pace = self._pace.line(self._trials.values(), self._total)
        return Group(self._progress, *([pace] if pace else []), table)


def leaderboard(
    trials: Iterable[Trial],
    keys: list[str] | None,
    baselines: Baselines,
    *,
    split: str,
    title: str,
) -> Table:
    """Ranks trials with the baselines among them, or beneath where labels do not rank.

    Args:
        trials: The sweep's trials.
        keys: Dotted keys that the sweep varies, one column each; `None` where methods vary
            different ones, which `draws_table` lists.
        baselines: Scores by split and name.
        split: The split that trials are ranked on.
        title: Heads the table; says data, protocol and backbone.

    Returns:
        The table.
    """
    method = [] if keys is not None else ["method"]
    headings = [key.split(".")[-1] for key in keys or ()]
    order = ranked(trials)
    criterion = [t.objective for t in order[:1] if t.objective != MIOU]
    table = Table(title=title, title_justify="left")
    for column in ("rank", "trial", *method, *map(short, criterion), MIOU, "acc", "K", *headings):
        table.add_column(
            column, no_wrap=column in ("trial", "method", "unsup_miou"), overflow="fold"
        )
    rows: list[tuple[float, list[str]]] = []
    for rank, trial in enumerate(order, start=1):
        cells = [
            str(rank),
            trial.name + _remark(trial),
            *(trial.method for _ in method),
            *(_score(trial) for _ in criterion),
            number(trial.metrics.get(MIOU), 1),
            number(trial.metrics.get("unsup_acc"), 1),
            str(trial.settings.get("num_clusters")),
            *(value(trial.settings.get(key)) for key in keys or ()),
        ]
        rows.append((-inf if trial.score is None else trial.score, cells))
    for name, score in baselines.get(split, {}).items():
        cells = ["", f"[dim]{label(name)}[/]", *("" for _ in [*method, *criterion])]
        rows.append((-inf if criterion else score, [*cells, number(score, 1)]))
    for _, cells in sorted(rows, key=lambda row: -row[0]):
        table.add_row(*cells)
    return table


def draws_table(trials: Iterable[Trial]) -> Table:
    """Lists what each trial drew, the best first; those with their method's defaults are left out.

    Args:
        trials: The sweep's trials.

    Returns:
        The table, one line a trial where the terminal is wide enough.
    """
    table = Table.grid(padding=(0, 2))
    for trial in ranked(trials):
        if trial.sample:
            table.add_row(trial.name, trial.method, sampled(trial.sample))
    return table


def final_table(finalists: Iterable[Finalist], baselines: Mapping[str, float], split: str) -> Table:
    """Lists the finalists' test scores, mean and deviation over seeds, the baselines beneath.

    They stand in the order of the selection split, which chose them. Beside the score at the last
    epoch stand that of a linear probe, which is supervised, and that of the epoch that was best on
    the selection split, which is picked by labels.

    Args:
        finalists: In that order.
        baselines: Scores by name.
        split: The test split.

    Returns:
        The table.
    """
    title = f"Finalists on {split}, every run scored once (mean and deviation over seeds)"
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    # In 80 columns nothing is cut.
    for heading in ("trial", "K", "seeds", "unsup_miou"):
        table.add_column(heading, no_wrap=True)
    for heading in ("acc", "[dim]linear[/]", "[dim]label selected[/]", "behind the first"):
        table.add_column(heading)
    for finalist in finalists:
        table.add_row(
            f"{finalist.trial.name}\n{finalist.trial.method}",
            str(finalist.trial.settings.get("num_clusters")),
            str(len(finalist.scores)),
            *(_spread(finalist, name) for name in ("unsup_miou", "unsup_acc", "linear_miou")),
            _spread(finalist, "label_selected_miou"),
            _behind(finalist.behind),
        )
    table.add_section()
    for name, score in baselines.items():
        name_and_kind = label(name).replace(" ", "\n")
        table.add_row(f"[dim]{name_and_kind}[/]", "", "", number(score, 1))
    return table


def trust_table(found: Iterable[Trust]) -> Table:
    """Lists how well criteria without labels rank the trials that labels rank too.

    Args:
        found: In the order to show.

    Returns:
        The table.
    """
    title = "Criteria without labels: how each ranks the trials, against unsup_miou"
    table = Table("criterion", "Spearman", "its choice", MIOU, "regret", "at random", title=title)
    table.title_justify = "left"
    for one in found:
        points = (number(points, 1) for points in (one.miou, one.regret, one.random_regret))
        table.add_row(short(one.criterion), number(one.spearman, 2), choice(one), *points)
    return table


def _spread(finalist: Finalist, metric: str) -> str:
    mean, deviation = finalist.mean(metric), finalist.deviation(metric)
    return number(mean, 1) + ("" if deviation is None else f" ± {deviation:.1f}")


def _behind(difference: Difference | None) -> str:
    """Says whether a finalist is behind the first one by more than noise."""
    if difference is None:
        return ""
    interval = f"{difference.mean:.1f} [{difference.low:.1f}, {difference.high:.1f}]"
    return f"{interval}, noise" if difference.is_noise else interval


def _score(trial: Trial) -> str:
    """Formats what a trial is ranked by."""
    return number(trial.score, digits(trial.objective))


def _remark(trial: Trial) -> str:
    """Says what a reader must know before trusting the row's number."""
    if trial.status != "FINISHED":
        return f" [{STATUS_STYLE[trial.status]}]{trial.status.lower()}[/]"
    return " [red]collapsed[/]" if trial.metrics.get("collapsed") else ""


def label(name: str) -> str:
    """Says what a baseline is."""
    if name in FLOORS:
        return f"{name} (floor)"
    return "linear (supervised)" if name == CEILING else f"{name} (features)"


def number(value: float | None, digits: int) -> str:
    """Formats a number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def value(setting: Any) -> str:  # noqa: ANN401
    """Formats a setting."""
    return f"{setting:.3g}" if isinstance(setting, float) else str(setting)


def sampled(sample: Mapping[str, Any]) -> str:
    """Writes what a trial drew in one line.

    Args:
        sample: Dotted keys and values; of a key its last word is written.

    Returns:
        `key=value` for each, or `defaults` where nothing was drawn.
    """
    if not sample:
        return "defaults"
    return " ".join(f"{key.split('.')[-1]}={value(v)}" for key, v in sample.items())
