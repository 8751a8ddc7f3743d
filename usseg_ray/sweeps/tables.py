"""What a sweep says when it has ended: ranked trials, finalists, and where to look further."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from usseg_ray.core.stopwatch import Seconds
from usseg_ray.engine.baselines import Baselines, label
from usseg_ray.scoring.objective import MIOU, digits, short
from usseg_ray.scoring.significance import Difference
from usseg_ray.sweeps.answer import Answer
from usseg_ray.sweeps.criteria import Trust, choice, criterion_trust
from usseg_ray.sweeps.finals import Finalist
from usseg_ray.sweeps.k_trials import CLUSTERS
from usseg_ray.sweeps.plan import Plan
from usseg_ray.trials.trial import Trial, ranked


@dataclass
class Outcome:
    """What a sweep found.

    Attributes:
        trials: All trials.
        baselines: Scores beside them.
        finals: The finalists' scores on the test split, the best on the selection split first.
        peak_bytes: Peak memory of all processes together.
        seconds: Wall time of the sweep's parts, in their order.
        concurrent: Trials at a time.
        answer: What it comes to, in one sentence, and the command to go on with.
    """

    trials: list[Trial]
    baselines: Baselines
    finals: list[Finalist]
    peak_bytes: int
    seconds: Seconds
    concurrent: int
    answer: Answer


def print_outcome(
    console: Console, plan: Plan, outcome: Outcome, folder: Path, command: str, url: str
) -> None:
    """Prints what a sweep found.

    Args:
        console: Where to.
        plan: The sweep's plan.
        outcome: What it found.
        folder: Its folder.
        command: Starts the dashboard; empty where a server shows it.
        url: Of the dashboard.
    """
    data, several = plan.config.data, len(plan.parts) > 1
    keys = [k for k in plan.parts[0].space.space if k not in ("clusters_per_class", CLUSTERS)]
    console.print(
        leaderboard(
            outcome.trials,
            None if several else keys,
            outcome.baselines,
            split=data.selection_split,
            title=plan.protocol(),
        )
    )
    if several and any(trial.sample for trial in outcome.trials):
        console.print(draws_table(outcome.trials), highlight=False)
    if trust := criterion_trust(outcome.trials):
        console.print(trust_table(trust))
    _print_finals(console, outcome, data.test_split, plan.picked)
    console.print(
        f"Peak memory of all processes: {outcome.peak_bytes / 2**30:.2f} GiB. Folder: {folder}",
        highlight=False,
        soft_wrap=True,
    )
    print_answer(console, outcome.answer)
    if command:
        console.print(f"Dashboard: [bold]{command}[/]", highlight=False, soft_wrap=True)
    console.print(f"  then open {url}", highlight=False, soft_wrap=True)


def print_answer(console: Console, answer: Answer) -> None:
    """Prints what a sweep comes to, and the command to go on with, to be copied whole."""
    console.print(f"[bold]{escape(answer.sentence)}[/]", highlight=False, soft_wrap=True)
    if answer.command:
        console.print(f"  {answer.command}", highlight=False, markup=False, soft_wrap=True)


def _print_finals(console: Console, outcome: Outcome, split: str, picked: str) -> None:
    beside = outcome.baselines.get(split, {})
    runs = sum(len(finalist.scores) for finalist in outcome.finals)
    if runs > 1:
        console.print(final_table(outcome.finals, beside, split, picked))
        return
    for finalist in outcome.finals:
        ((_, metrics),) = finalist.scores.items()
        others = ", ".join(f"{label(k)} {v:.1f}" for k, v in beside.items())
        console.print(
            f"Best trial on {split}, scored once: [bold]unsup_miou {metrics['unsup_miou']:.1f}"
            f"[/], unsup_acc {metrics['unsup_acc']:.1f}   beside it: {others}",
            highlight=False,
        )
        if picked:
            console.print(f"  {picked}", highlight=False)
        if "label_selected_miou" in metrics:
            console.print(
                f"  its epoch {metrics['label_selected_epoch']:.0f}, picked by labels of the "
                f"selection split: {metrics['label_selected_miou']:.1f}",
                highlight=False,
            )


STATUS_STYLE = {
    "RUNNING": "cyan",
    "FINISHED": "green",
    "STOPPED": "yellow",
    "FAILED": "red",
    "KILLED": "red",
}


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
    labelled = bool(baselines.get(split)) or any(MIOU in trial.metrics for trial in order)
    scores = (MIOU, "unsup_acc") if labelled or not criterion else ()
    shown = (name.replace("unsup_acc", "acc") for name in scores)
    for column in ("rank", "trial", *method, *map(short, criterion), *shown, "K", *headings):
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
            *(number(trial.metrics.get(name), 1) for name in scores),
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


def final_table(
    finalists: Iterable[Finalist], baselines: Mapping[str, float], split: str, picked: str = ""
) -> Table:
    """Lists the finalists' test scores, mean and deviation over seeds, the baselines beneath.

    They stand in the order of the selection split, which chose them. Beside the score at the last
    epoch stand that of a linear probe, which is supervised, and that of the epoch that was best on
    the selection split, which is picked by labels.

    Args:
        finalists: In that order.
        baselines: Scores by name.
        split: The test split.
        picked: What picked the finalists; nothing where there was no choice.

    Returns:
        The table.
    """
    title = f"Finalists on {split}, every run scored once (mean and deviation over seeds)"
    title += f"\n{picked}" if picked else ""
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
    ends = (difference.low, difference.high)
    interval = "" if None in ends else f" [{number(ends[0], 1)}, {number(ends[1], 1)}]"
    return ", ".join(filter(None, (f"{difference.mean:.1f}{interval}", difference.verdict)))


def _score(trial: Trial) -> str:
    """Formats what a trial is ranked by."""
    return number(trial.score, digits(trial.objective))


def _remark(trial: Trial) -> str:
    """Says what a reader must know before trusting the row's number."""
    if trial.status != "FINISHED":
        return f" [{STATUS_STYLE[trial.status]}]{trial.status.lower()}[/]"
    return " [red]collapsed[/]" if trial.metrics.get("collapsed") else ""


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
