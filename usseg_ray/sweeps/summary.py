"""What a sweep says when it has ended: ranked trials, finalists, and where to look further."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from usseg_ray.baselines import Baselines
from usseg_ray.stopwatch import Seconds
from usseg_ray.sweeps.cluster_counts import CLUSTERS
from usseg_ray.sweeps.finals import Finalist
from usseg_ray.sweeps.plan import Plan
from usseg_ray.sweeps.screen import draws_table, final_table, label, leaderboard, trust_table
from usseg_ray.sweeps.trust import criterion_trust
from usseg_ray.trials import Trial


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
    """

    trials: list[Trial]
    baselines: Baselines
    finals: list[Finalist]
    peak_bytes: int
    seconds: Seconds
    concurrent: int


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
    _print_finals(console, outcome, data.test_split)
    console.print(
        f"Peak memory of all processes: {outcome.peak_bytes / 2**30:.2f} GiB. Folder: {folder}",
        highlight=False,
        soft_wrap=True,
    )
    if command:
        console.print(f"Dashboard: [bold]{command}[/]", highlight=False, soft_wrap=True)
    console.print(f"  then open {url}", highlight=False, soft_wrap=True)


def _print_finals(console: Console, outcome: Outcome, split: str) -> None:
    beside = outcome.baselines.get(split, {})
    runs = sum(len(finalist.scores) for finalist in outcome.finals)
    if runs > 1:
        console.print(final_table(outcome.finals, beside, split))
        return
    for finalist in outcome.finals:
        ((_, metrics),) = finalist.scores.items()
        others = ", ".join(f"{label(k)} {v:.1f}" for k, v in beside.items())
        console.print(
            f"Best trial on {split}, scored once: [bold]unsup_miou {metrics['unsup_miou']:.1f}"
            f"[/], unsup_acc {metrics['unsup_acc']:.1f}   beside it: {others}",
            highlight=False,
        )
        if "label_selected_miou" in metrics:
            console.print(
                f"  its epoch {metrics['label_selected_epoch']:.0f}, picked by labels of the "
                f"selection split: {metrics['label_selected_miou']:.1f}",
                highlight=False,
            )
