"""Runs a plan: Ray Tune over trials, baselines beside them, final scores at the end.

Everything that a sweep leaves lies in its folder, a folder per trial; with it, a sweep that was
killed in any way goes on where it stopped: ended trials are kept, a broken-off one resumes from
its last checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from usseg_ray.baselines import Baselines
from usseg_ray.beside import (
    Finals,
    as_task,
    final_folder,
    finish_baselines,
    score_finals,
    start_baselines,
)
from usseg_ray.cluster import device_of, local_ray, max_concurrent_trials
from usseg_ray.data.pipeline import reading_group
from usseg_ray.feature_plan import stored_features
from usseg_ray.forecast import Choice, choose, longest_seconds
from usseg_ray.job import WORKERS, Draw, Jobs
from usseg_ray.memory import PeakMemory
from usseg_ray.monitor import Monitor, TrialNames
from usseg_ray.plan import Plan, agreed
from usseg_ray.record import draw
from usseg_ray.scoring import ground_truth
from usseg_ray.screen import Screen, draws_table, final_table, label, leaderboard
from usseg_ray.search_space import Distribution
from usseg_ray.tracking import Ledger
from usseg_ray.trainer import run_trial, trial_resources
from usseg_ray.trials import ENDED, Scored, Trial, best_of_each, load_trials

TUNE_STATE = ".tune"
EXPERIMENT = "usseg_ray"


@dataclass
class Outcome:
    """What a sweep found.

    Attributes:
        trials: All trials.
        baselines: Scores beside them.
        final: Test metrics of each method's best trial; empty where there are none.
        peak_bytes: Peak memory of all processes together.
    """

    trials: list[Trial]
    baselines: Baselines
    final: Finals
    peak_bytes: int


@dataclass(frozen=True)
class Slots:
    """How a sweep's trials share the cluster.

    Attributes:
        concurrent: Trials at a time.
        num_workers: As `resources.num_workers`, but chosen.
        device: `cpu` or `cuda`.
    """

    concurrent: int
    num_workers: int
    device: str


def run_sweep(plan: Plan, folder: Path, console: Console) -> Outcome:
    """Runs what is left of a plan's trials, then scores each method's best once on the test split.

    Args:
        plan: The checked plan.
        folder: The sweep's folder; trials that ended in it are kept.
        console: Where to show progress and the result.

    Returns:
        Trials, baselines and the final score, as printed.

    Raises:
        UserError: Nothing fits the cluster, or the tracking store is out of reach.
    """
    with PeakMemory() as memory, _ledger(plan, folder) as ledger, local_ray():
        resources = plan.config.resources
        device = device_of(resources)
        concurrent = _concurrent(plan, device)
        readers = concurrent * resources.processes
        with (
            stored_features(plan, plan.jobs(), device, folder, console) as storing,
            reading_group(resources.data_cpus_per_worker, readers) as reading,
        ):
            jobs = storing.on(device, reading)
            any_job = jobs.job(Draw(plan.parts[0].method, {}))
            pending = start_baselines(any_job, folder) if plan.manifest.classes else None
            slots = Slots(concurrent, _num_workers(plan, jobs, folder, console), device)
            jobs = jobs.in_processes(slots.num_workers)
            trials = _run_trials(plan, jobs, folder, ledger, console, slots)
            baselines = finish_baselines(pending, folder)
            if beside := baselines.get(plan.config.data.selection_split):
                ledger.log_baselines(beside)
            final = _finals(plan, jobs, trials, baselines, folder, ledger)
        command, url = ledger.dashboard()
    outcome = Outcome(
        [trials[index] for index in sorted(trials)], baselines, final, memory.peak_bytes
    )
    _print_outcome(console, plan, outcome, folder, command, url)
    return outcome


def _concurrent(plan: Plan, device: str) -> int:
    fits = max_concurrent_trials(plan.config.resources, device)
    return min(fits, plan.request.max_concurrent or fits, plan.num_trials)


def _num_workers(plan: Plan, jobs: Jobs, folder: Path, console: Console) -> int:
    """Chooses the form of the trials where the user left it open; for the life of the sweep."""
    asked = plan.config.resources.num_workers
    if asked != "auto":
        return asked
    if earlier := load_trials(folder):
        return int(earlier[0].settings[WORKERS])
    first = [jobs.job(Draw(part.method, {})) for part in plan.parts]
    try:
        choice = choose(ray.get(as_task(longest_seconds, first[0]).remote(first)))
    except RayError as error:
        cause = str(error).strip().splitlines()[-1]
        choice = Choice(0, f"Trials run in their own process: trying one out failed ({cause})")
    console.print(choice.reason, highlight=False)
    return choice.num_workers


def _ledger(plan: Plan, folder: Path) -> Ledger:
    return Ledger.open(
        plan.request.tracking_uri,
        EXPERIMENT,
        plan.request.key,
        params=agreed([part.base for part in plan.parts])
        | {"space": {part.method: part.space.source for part in plan.parts}},
        tags={
            "usseg.protocol": plan.protocol(),
            "usseg.data_digest": plan.manifest.digest(),
            "usseg.folder": folder.name,
        },
    )


def _run_trials(
    plan: Plan, jobs: Jobs, folder: Path, ledger: Ledger, console: Console, slots: Slots
) -> dict[int, Trial]:
    before = {trial.index: trial for trial in load_trials(folder)}
    kept = {index: t for index, t in before.items() if t.status in ENDED}
    indices = [i for i in range(plan.num_trials) if i not in kept]
    with Screen(console, plan.num_trials) as screen:
        for trial in kept.values():
            screen.show(trial)
        monitor = Monitor(
            folder=folder,
            jobs=jobs,
            truth=ground_truth(plan.manifest),
            palette=plan.manifest.palette,
            protocol=plan.protocol(),
            ledger=ledger,
            screen=screen,
            trials=dict(before),
            names=TrialNames(indices),
        )
        if indices:
            _tuner(plan, monitor, indices, before, slots).fit()
        return monitor.trials


def _tuner(
    plan: Plan,
    monitor: Monitor,
    indices: list[int],
    before: Mapping[int, Trial],
    slots: Slots,
) -> tune.Tuner:
    resources = plan.config.resources.model_copy(update={"num_workers": slots.num_workers})
    trainable = tune.with_parameters(run_trial, jobs=monitor.jobs, folder=str(monitor.folder))
    planned = bool(monitor.jobs.planned)
    searcher = None if planned else _optuna(plan, indices, before, slots.concurrent)
    return tune.Tuner(
        tune.with_resources(trainable, trial_resources(resources, slots.device)),
        param_space={"index": tune.grid_search(indices)} if planned else None,
        tune_config=tune.TuneConfig(
            metric="unsup_miou",
            mode="max",
            num_samples=1 if planned else len(indices),
            search_alg=searcher,
            scheduler=_scheduler(plan),
            max_concurrent_trials=slots.concurrent,
            # A trial that a scheduler stops while it waits for its workers goes on waiting: its
            # process cannot be given to the next one.
            reuse_actors=not slots.num_workers or plan.request.scheduler == "none",
            trial_name_creator=monitor.names,
        ),
        run_config=tune.RunConfig(
            name=TUNE_STATE,
            storage_path=str(monitor.folder),
            # Of a worker group, Ray Train takes care.
            failure_config=tune.FailureConfig(max_failures=0 if slots.num_workers else 1),
            callbacks=[monitor, JsonLoggerCallback()],
            verbose=0,
        ),
    )


def _scheduler(plan: Plan) -> tune.schedulers.TrialScheduler | None:
    if plan.request.scheduler == "none":
        return None
    return tune.schedulers.ASHAScheduler(time_attr="epoch", max_t=plan.max_epochs, grace_period=1)


def _optuna(
    plan: Plan, indices: list[int], before: Mapping[int, Trial], concurrent: int
) -> tune.search.Searcher:
    """Makes a TPE searcher that knows the ended trials and repeats the broken-off ones."""
    broken = [before[i].sample for i in indices if i in before]
    ended = [t for t in before.values() if t.status in ENDED and t.score is not None]
    searcher = OptunaSearch(
        space={key: _domain(d) for key, d in plan.parts[0].space.space.items()},
        metric="unsup_miou",
        mode="max",
        seed=plan.config.seed + len(ended),
        points_to_evaluate=broken or None,
    )
    for trial in ended:
        searcher.add_evaluated_point(trial.sample, trial.score)
    return tune.search.ConcurrencyLimiter(searcher, max_concurrent=concurrent)


def _domain(distribution: Distribution) -> optuna.distributions.BaseDistribution:
    if distribution.kind == "choice":
        return optuna.distributions.CategoricalDistribution(distribution.values)
    low, high = distribution.values
    if distribution.kind == "randint":
        return optuna.distributions.IntDistribution(low, high)
    return optuna.distributions.FloatDistribution(low, high, log=distribution.kind == "loguniform")


def _finals(
    plan: Plan,
    jobs: Jobs,
    trials: dict[int, Trial],
    baselines: Baselines,
    folder: Path,
    ledger: Ledger,
) -> Finals:
    """Scores each method's best trial on the untouched split, where that has labels."""
    split = plan.config.data.test_split
    info = plan.manifest.splits.get(split)
    if info is None or not info.labelled:
        return {}
    best = best_of_each(trials.values())
    finals = score_finals(jobs, best, folder)
    truth = ground_truth(plan.manifest)
    for trial in best:
        metrics, where = finals[trial.method], final_folder(folder, trial.method)
        what = f"{trial.name} ({trial.method}), unsup_miou {metrics['unsup_miou']:.1f}"
        protocol, beside = plan.protocol(split), baselines.get(split, {})
        Scored(trial.name, trial.method, protocol, metrics, beside).save(where)
        draw(where, truth, plan.manifest.palette, f"{protocol}: {what}")
        logged = {f"test.{key}": value for key, value in metrics.items()}
        ledger.log(trial.name, logged, 0)
        if trial is best[0]:
            ledger.log(None, logged, 0)
            ledger.attach(None, where)
    return finals


def _print_outcome(
    console: Console, plan: Plan, outcome: Outcome, folder: Path, command: str, url: str
) -> None:
    data, several = plan.config.data, len(plan.parts) > 1
    keys = [k for k in plan.parts[0].space.space if k != "clusters_per_class"]
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
    _print_finals(console, outcome, data.test_split, several=several)
    console.print(
        f"Peak memory of all processes: {outcome.peak_bytes / 2**30:.2f} GiB. Folder: {folder}",
        highlight=False,
        soft_wrap=True,
    )
    if command:
        console.print(f"Dashboard: [bold]{command}[/]", highlight=False, soft_wrap=True)
    console.print(f"  then open {url}", highlight=False, soft_wrap=True)


def _print_finals(console: Console, outcome: Outcome, split: str, *, several: bool) -> None:
    best, beside = best_of_each(outcome.trials), outcome.baselines.get(split, {})
    if several and outcome.final:
        rows = [(trial, outcome.final[trial.method]) for trial in best]
        console.print(final_table(rows, beside, split))
        return
    for metrics in outcome.final.values():
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
