"""What a sweep says when it has ended: ranked trials, finalists, and where to look further."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from usseg_ray.core.stopwatch import Seconds
from usseg_ray.core.table import Cell, Column, Table, TableRow, in_order
from usseg_ray.core.table_text import as_rich
from usseg_ray.engine.baselines import Baselines, baseline_rows, label
from usseg_ray.scoring.objective import MIOU, digits, kept_clusters, short
from usseg_ray.scoring.significance import Difference
from usseg_ray.sweeps.answer import Answer
from usseg_ray.sweeps.criteria import Trust, choice, criterion_trust
from usseg_ray.sweeps.finals.scores import Finalist
from usseg_ray.sweeps.k.trials import CLUSTERS
from usseg_ray.sweeps.own.drawn import run_pictures
from usseg_ray.sweeps.plan import Plan
from usseg_ray.trials.trial import ENDED, FINALISTS, Trial, load_trials, ranked

_TRIAL = Column("name", "trial", whole=True)
_METHOD = Column("method", "method", whole=True)
_SCORES = [Column(MIOU, MIOU, whole=True), Column("unsup_acc", "acc")]
_K = Column("num_clusters", "K", whole=True)
_FINALS = (
    _TRIAL,
    _K,
    Column("seeds", "seeds", 0, whole=True),
    *_SCORES,
    Column("linear_miou", "linear"),
    Column("label_selected_miou", "label selected"),
    Column("behind", "behind the first"),
)
_TRUST = (
    Column("criterion", "criterion"),
    Column("spearman", "Spearman", 2),
    Column("chosen", "its choice"),
    Column(MIOU, MIOU),
    Column("regret", "regret"),
    Column("random_regret", "at random"),
)


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
    board = leaderboard(
        outcome.trials,
        None if several else keys,
        outcome.baselines,
        split=data.selection_split,
        title=plan.protocol(),
    )
    console.print(as_rich(board), highlight=False)
    if several and any(trial.sample for trial in outcome.trials):
        console.print(draws_table(outcome.trials), highlight=False)
    if trust := criterion_trust(outcome.trials):
        console.print(as_rich(trust_table(trust)), highlight=False)
    _print_finals(console, outcome, data.test_split, plan.picked)
    runs = [*outcome.trials, *load_trials(folder / FINALISTS)]
    console.print(cost_line(runs, plan.trial_hour_price), highlight=False)
    console.print(
        f"Peak memory of all processes: {outcome.peak_bytes / 2**30:.2f} GiB. Folder: {folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for title, path in run_pictures(folder).items():
        console.print(f"{title}: {path}", markup=False, highlight=False, soft_wrap=True)
    print_answer(console, outcome.answer)
    if command:
        console.print(f"Dashboard: [bold]{escape(command)}[/]", highlight=False, soft_wrap=True)
    console.print(f"  then open {url}", markup=False, highlight=False, soft_wrap=True)


def cost_line(runs: Collection[Trial], hour_price: float | None) -> str:
    """Says what trials and finalists' further seeds took together, as the report's table does.

    Args:
        runs: All of them.
        hour_price: What an hour of one costs; `None` if nobody said.
    """
    seconds = sum(run.seconds for run in runs)
    price = "" if hour_price is None else f", price {seconds / 3600 * hour_price:.2f}"
    return f"Training and scoring: {seconds:.1f} s in all {len(runs)} runs{price}."


def print_answer(console: Console, answer: Answer) -> None:
    """Prints what a sweep comes to, and the command to go on with, to be copied whole."""
    console.print(f"[bold]{escape(answer.sentence)}[/]", highlight=False, soft_wrap=True)
    if answer.command:
        console.print(f"  {answer.command}", highlight=False, markup=False, soft_wrap=True)


def _print_finals(console: Console, outcome: Outcome, split: str, picked: str) -> None:
    baselines = outcome.baselines.get(split, {})
    runs = sum(len(finalist.scores) for finalist in outcome.finals)
    if runs > 1:
        finals = final_table(outcome.finals, baselines, split, picked)
        console.print(as_rich(finals), highlight=False)
        return
    for finalist in outcome.finals:
        ((_, metrics),) = finalist.scores.items()
        others = ", ".join(f"{label(k)} {v:.1f}" for k, v in baselines.items())
        console.print(
            f"Best trial on {split}, scored once: [bold]unsup_miou {metrics['unsup_miou']:.1f}"
            f"[/], unsup_acc {metrics['unsup_acc']:.1f}   beside it: {others}",
            highlight=False,
        )
        if picked:
            console.print(f"  {picked}", markup=False, highlight=False)
        if "label_selected_miou" in metrics:
            console.print(
                f"  its epoch {metrics['label_selected_epoch']:.0f}, picked by labels of the "
                f"selection split: {metrics['label_selected_miou']:.1f}",
                highlight=False,
            )


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
    order = ranked(trials)
    of_split = baselines.get(split, {})
    criterion = next((t.objective for t in order[:1] if t.objective != MIOU), None)
    labelled = bool(of_split) or any(MIOU in trial.metrics for trial in order)
    columns = [Column("rank", "rank", 0), _TRIAL, *([_METHOD] if keys is None else [])]
    columns += [Column(criterion, short(criterion), digits(criterion))] if criterion else []
    columns += _SCORES if labelled or not criterion else []
    columns += [_K, *(Column(key, key.split(".")[-1]) for key in keys or ())]
    rows = [_row(trial, columns) for trial in order]
    rows += baseline_rows(of_split.items())
    return Table(title, tuple(columns), in_order(rows, criterion or MIOU))


def _row(trial: Trial, columns: Iterable[Column]) -> TableRow:
    cells: dict[str, Cell] = {
        "name": trial.name,
        "method": trial.method,
        "num_clusters": value(trial.settings.get("num_clusters")),
        "remark": _remark(trial),
        trial.objective: trial.score,
    }
    scores = {column.key: trial.metrics.get(column.key) for column in _SCORES}
    drawn = {c.key: value(trial.settings.get(c.key)) for c in columns if c.key != "rank"}
    # As in the report: what did not end has a score, and no rank.
    rank = {"rank": 0.0} if trial.status in ENDED else {}
    return TableRow({**drawn, **scores, **rank, **cells})


def draws_table(trials: Iterable[Trial]) -> Grid:
    """Lists what each trial drew, the best first; those with their method's defaults are left out.

    Args:
        trials: The sweep's trials.

    Returns:
        The table, one line a trial where the terminal is wide enough.
    """
    table = Grid.grid(padding=(0, 2))
    for trial in ranked(trials):
        if trial.sample:
            table.add_row(*map(escape, (trial.name, trial.method, sampled(trial.sample))))
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
    rows = [*map(_final_row, finalists), *baseline_rows(baselines.items())]
    return Table(title, _FINALS, tuple(map(in_two_lines, rows)))


def in_two_lines(row: TableRow) -> TableRow:
    """Breaks the row's name, so that in 80 columns nothing is cut."""
    return TableRow({**row.cells, "name": str(row.cells["name"]).replace(" ", "\n")}, row.kind)


def _final_row(finalist: Finalist) -> TableRow:
    trial = finalist.trial
    cells: dict[str, Cell] = {
        "name": f"{trial.name} {trial.method}",
        "num_clusters": str(trial.settings.get("num_clusters")),
        "seeds": float(len(finalist.scores)),
    }
    for key in ("unsup_miou", "unsup_acc", "linear_miou", "label_selected_miou"):
        cells[key] = finalist.spread(key)
    if finalist.behind is not None:
        cells["behind"] = behind(finalist.behind)
    return TableRow(cells)


def trust_table(found: Iterable[Trust]) -> Table:
    """Lists how well criteria without labels rank the trials that labels rank too.

    Args:
        found: In the order to show.

    Returns:
        The table.
    """
    title = "Criteria without labels: how each ranks the trials, against unsup_miou"
    return Table(title, _TRUST, tuple(map(trust_row, found)))


def trust_row(one: Trust) -> TableRow:
    """Lists what is known of a criterion; a table shows the columns that it has."""
    return TableRow(
        {
            "criterion": short(one.criterion),
            "trials": float(one.trials),
            "spearman": one.spearman,
            "chosen": choice(one),
            MIOU: one.miou,
            "regret": one.regret,
            "random_regret": one.random_regret,
        }
    )


def behind(difference: Difference) -> str:
    """Says how far a finalist is behind the first one, and whether that is noise."""
    ends = (difference.low, difference.high)
    interval = "" if None in ends else f" [{number(ends[0], 1)}, {number(ends[1], 1)}]"
    return ", ".join(filter(None, (f"{difference.mean:.1f}{interval}", difference.verdict)))


def _remark(trial: Trial) -> str | None:
    """Says what a reader must know before trusting the row's number."""
    if trial.status != "FINISHED":
        return trial.status.lower()
    kept = kept_clusters(trial.metrics)
    said = ("collapsed" if trial.metrics.get("collapsed") else "", kept and f"clusters: {kept}")
    return "; ".join(filter(None, said)) or None


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
