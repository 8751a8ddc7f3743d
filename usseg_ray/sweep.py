"""Runs a plan: Ray Tune over trials, baselines beside them, one final score at the end.

Everything that a sweep leaves lies in its folder, a folder per trial; with it, a sweep that was
killed in any way goes on where it stopped: ended trials are kept, a broken-off one resumes from
its last checkpoint.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from usseg_ray import methods, worker
from usseg_ray.baselines import Baselines
from usseg_ray.cluster import device_of, local_ray, max_concurrent_trials
from usseg_ray.data.pipeline import reading_group
from usseg_ray.job import Job, JobTemplate
from usseg_ray.memory import PeakMemory
from usseg_ray.monitor import Monitor, TrialNames
from usseg_ray.plan import Plan
from usseg_ray.record import draw
from usseg_ray.scoring import GroundTruth
from usseg_ray.screen import Screen, label, leaderboard
from usseg_ray.search_space import Distribution
from usseg_ray.tracking import Ledger
from usseg_ray.trainer import TRIAL_MEMORY_BYTES, run_trial
from usseg_ray.trials import ENDED, Trial, load_trials, ranked

TUNE_STATE = ".tune"
EXPERIMENT = "usseg_ray"


def protocol_name(plan: Plan, split: str | None = None) -> str:
    """Names what a plan's scores were measured under; two scores compare only if it is equal.

    Args:
        plan: The plan.
        split: The split that was scored; the selection split if unset.

    Returns:
        Data, split, frame, matching, refiner and backbone, in words.
    """
    data, backbone = plan.config.data, plan.config.backbone
    note = f" ({backbone.note})" if backbone.note else ""
    return (
        f"{plan.manifest.name} {split or data.selection_split}, short side {data.eval_size}, "
        f"centre crop, one-to-one, no refiner, {backbone.name}{note}"
    )


@dataclass
class Outcome:
    """What a sweep found.

    Attributes:
        trials: All trials.
        baselines: Scores beside them.
        final: Test metrics of the best trial; empty where there are none.
        peak_bytes: Peak memory of all processes together.
    """

    trials: list[Trial]
    baselines: Baselines
    final: dict[str, float]
    peak_bytes: int


def run_sweep(plan: Plan, folder: Path, console: Console) -> Outcome:
    """Runs what is left of a plan's trials, then scores the best once on the test split.

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
        readers = concurrent * resources.num_workers
        with reading_group(resources.data_cpus_per_worker, readers) as reading:
            template = replace(plan.template(), device=device, reading=reading)
            pending = _start_baselines(plan, template.job({}), folder)
            trials = _run_trials(plan, template, folder, ledger, console, concurrent)
            baselines = _finish_baselines(pending, folder)
            _log_baselines(ledger, baselines, plan)
            final = _final(plan, template, trials, folder, ledger)
        command, url = ledger.dashboard()
    outcome = Outcome(
        [trials[index] for index in sorted(trials)], baselines, final, memory.peak_bytes
    )
    _print_outcome(console, plan, outcome, folder, command, url)
    return outcome


def _concurrent(plan: Plan, device: str) -> int:
    fits = max_concurrent_trials(plan.config.resources, device)
    return min(fits, plan.request.max_concurrent or fits, plan.request.num_samples)


def _ledger(plan: Plan, folder: Path) -> Ledger:
    return Ledger.open(
        plan.request.tracking_uri,
        EXPERIMENT,
        plan.request.key,
        params=plan.template().base | {"space": plan.space.source},
        tags={
            "usseg.protocol": protocol_name(plan),
            "usseg.data_digest": plan.manifest.digest(),
            "usseg.folder": folder.name,
        },
    )


def _truth(plan: Plan) -> GroundTruth | None:
    manifest = plan.manifest
    return GroundTruth(manifest.classes, manifest.ignore_index) if manifest.classes else None


def _run_trials(
    plan: Plan,
    template: JobTemplate,
    folder: Path,
    ledger: Ledger,
    console: Console,
    concurrent: int,
) -> dict[int, Trial]:
    before = {trial.index: trial for trial in load_trials(folder)}
    kept = {index: t for index, t in before.items() if t.status in ENDED}
    indices = [i for i in range(plan.request.num_samples) if i not in kept]
    epochs = plan.config.train.epochs * len(methods.get(template.method).stages) or 1
    with Screen(console, plan.request.num_samples, epochs) as screen:
        for trial in kept.values():
            screen.show(trial)
        monitor = Monitor(
            folder=folder,
            template=template,
            samples=dict(enumerate(plan.samples)),
            epochs=epochs,
            truth=_truth(plan),
            palette=plan.manifest.palette,
            protocol=protocol_name(plan),
            ledger=ledger,
            screen=screen,
            trials=dict(kept),
            names=TrialNames(indices),
        )
        if indices:
            _tuner(plan, template, monitor, indices, before, concurrent).fit()
        return monitor.trials


def _tuner(
    plan: Plan,
    template: JobTemplate,
    monitor: Monitor,
    indices: list[int],
    before: Mapping[int, Trial],
    concurrent: int,
) -> tune.Tuner:
    trainable = tune.with_parameters(
        run_trial,
        template=template,
        samples=monitor.samples,
        folder=str(monitor.folder),
    )
    planned = bool(plan.samples)
    searcher = None if planned else _optuna(plan, indices, before, concurrent)
    return tune.Tuner(
        # A trial's own process waits for its workers: no CPU, but a real share of memory.
        tune.with_resources(trainable, {"memory": TRIAL_MEMORY_BYTES}),
        param_space={"index": tune.grid_search(indices)} if planned else None,
        tune_config=tune.TuneConfig(
            metric="unsup_miou",
            mode="max",
            num_samples=1 if planned else len(indices),
            search_alg=searcher,
            scheduler=_scheduler(plan, monitor.epochs),
            max_concurrent_trials=concurrent,
            # A trial that a scheduler stops is still waiting for its workers: its process cannot
            # be given to the next one.
            reuse_actors=plan.request.scheduler == "none",
            trial_name_creator=monitor.names,
        ),
        run_config=tune.RunConfig(
            name=TUNE_STATE,
            storage_path=str(monitor.folder),
            callbacks=[monitor, JsonLoggerCallback()],
            verbose=0,
        ),
    )


def _scheduler(plan: Plan, epochs: int) -> tune.schedulers.TrialScheduler | None:
    if plan.request.scheduler == "none":
        return None
    return tune.schedulers.ASHAScheduler(time_attr="epoch", max_t=epochs, grace_period=1)


def _optuna(
    plan: Plan, indices: list[int], before: Mapping[int, Trial], concurrent: int
) -> tune.search.Searcher:
    """Makes a TPE searcher that knows the ended trials and repeats the broken-off ones."""
    broken = [before[i].sample for i in indices if i in before]
    ended = [t for t in before.values() if t.status in ENDED and t.score is not None]
    searcher = OptunaSearch(
        space={key: _domain(d) for key, d in plan.space.space.items()},
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


def _start_baselines(plan: Plan, job: Job, folder: Path) -> Any | None:  # noqa: ANN401
    """Starts the baselines beside the trials, unless the folder has them from an earlier life."""
    if not plan.manifest.classes or (folder / "baselines.json").exists():
        return None
    return _beside(worker.baselines, job).remote(job)


def _beside(function: Callable[..., Any], job: Job) -> Any:  # noqa: ANN401
    """Makes a task that asks for as much as one training process."""
    share = {k.removeprefix("resources."): v for k, v in job.settings.items()}
    # max_calls: its process ends with it, and gives its memory back.
    return ray.remote(
        num_cpus=share["cpus_per_worker"],
        num_gpus=share["gpus_per_worker"] if job.device == "cuda" else 0,
        max_retries=1,
        max_calls=1,
    )(function)


def _finish_baselines(pending: Any | None, folder: Path) -> Baselines:  # noqa: ANN401
    path = folder / "baselines.json"
    if pending is not None:
        path.write_text(json.dumps(ray.get(pending), indent=1))
    return json.loads(path.read_text()) if path.exists() else {}


def _log_baselines(ledger: Ledger, baselines: Baselines, plan: Plan) -> None:
    selection = baselines.get(plan.config.data.selection_split, {})
    if selection:
        ledger.log_baselines(selection)


def _final(
    plan: Plan, template: JobTemplate, trials: dict[int, Trial], folder: Path, ledger: Ledger
) -> dict[str, float]:
    """Scores the best trial on the untouched split: once in the life of a sweep."""
    path, split = folder / "final.json", plan.config.data.test_split
    if path.exists():
        return dict(json.loads(path.read_text()))
    candidates = [t for t in ranked(list(trials.values())) if t.score is not None and t.checkpoint]
    info = plan.manifest.splits.get(split)
    if not candidates or info is None or not info.labelled:
        return {}
    best = candidates[0]
    job = template.job(best.sample)
    task = _beside(worker.final_score, job)
    target = folder / "final"
    metrics: dict[str, float] = ray.get(task.remote(job, best.checkpoint, str(target)))
    path.write_text(json.dumps(metrics | {"trial": best.index}, indent=1))
    caption = f"{protocol_name(plan, split)}: {best.name}, unsup_miou {metrics['unsup_miou']:.1f}"
    draw(target, _truth(plan), plan.manifest.palette, caption)
    ledger.log(None, {f"test.{k}": v for k, v in metrics.items()}, 0)
    ledger.log(best.name, {f"test.{k}": v for k, v in metrics.items()}, 0)
    ledger.attach(None, target)
    return metrics


def _print_outcome(
    console: Console, plan: Plan, outcome: Outcome, folder: Path, command: str, url: str
) -> None:
    split, test = plan.config.data.selection_split, plan.config.data.test_split
    console.print(
        leaderboard(
            outcome.trials,
            [k for k in plan.space.space if k != "clusters_per_class"],
            outcome.baselines,
            split=split,
            title=protocol_name(plan),
        )
    )
    if outcome.final:
        beside = outcome.baselines.get(test, {})
        others = ", ".join(f"{label(k)} {v:.1f}" for k, v in beside.items())
        console.print(
            f"Best trial on {test}, scored once: [bold]unsup_miou {outcome.final['unsup_miou']:.1f}"
            f"[/], unsup_acc {outcome.final['unsup_acc']:.1f}   beside it: {others}",
            highlight=False,
        )
    console.print(
        f"Peak memory of all processes: {outcome.peak_bytes / 2**30:.2f} GiB. Folder: {folder}",
        highlight=False,
        soft_wrap=True,
    )
    if command:
        console.print(f"Dashboard: [bold]{command}[/]", highlight=False, soft_wrap=True)
    console.print(f"  then open {url}", highlight=False, soft_wrap=True)
