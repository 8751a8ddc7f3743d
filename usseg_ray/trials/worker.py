"""What runs inside a process that trains, and the short jobs beside a sweep.

Apart from `trainer`, which launches it, so that Ray's controllers need not import torch.
"""

from collections.abc import Iterable
from pathlib import Path

import torch

from usseg_ray import methods
from usseg_ray.cluster.ray_stream import RayStream
from usseg_ray.core.config import Config, MethodConfig
from usseg_ray.core.machine import give_memory_back
from usseg_ray.core.records import DamagedError
from usseg_ray.core.types import Needs
from usseg_ray.data.manifest import Manifest, load_manifest
from usseg_ray.data.reading import stream_here
from usseg_ray.engine.baselines import Baselines, compute_baselines
from usseg_ray.engine.checkpoint import BEST, RunState
from usseg_ray.engine.context import PlainContext, RunContext
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.run import Run, Watch, assemble
from usseg_ray.features.store.store import FeatureStore
from usseg_ray.scoring.arrays import ARRAYS, COUNTS, write_counts, write_evaluation
from usseg_ray.scoring.evaluation import linear_metrics, score_metrics
from usseg_ray.scoring.prediction import Refiners
from usseg_ray.trials.contexts import TrainContext, TuneContext
from usseg_ray.trials.job import FinalScoring, Job
from usseg_ray.trials.storage import Storage, below, opened
from usseg_ray.trials.stored import open_stored
from usseg_ray.trials.trial import CHECKPOINTS, TEST_SCORES_FILE, note_test_scores


def run_in_group(job: Job, storage: Storage) -> Run:
    """Builds a job's run in this worker of a group.

    Args:
        job: What to fit.
        storage: The trial's folder.
    """
    from ray.train.torch import get_device  # noqa: PLC0415 (for worker groups only)

    device = get_device() if job.placement.device == "cuda" else torch.device("cpu")
    return build_run(job, TrainContext(device, storage, job.shared))


def run_here(job: Job, storage: Storage) -> Run:
    """Builds a job's run in the process that Tune gave to the trial.

    Args:
        job: What to fit.
        storage: The trial's folder.
    """
    return build_run(
        _alone(job), TuneContext(torch.device(job.placement.device), storage, job.shared)
    )


def baselines(job: Job) -> Baselines:
    """Computes the baselines of a job's data, protocol and backbone, in this process."""
    config, device = job.config, torch.device(job.placement.device)
    _begin(config)
    return compute_baselines(config, _open_set(_alone(job), Needs(), device), device)


def final_scores(asked: Iterable[FinalScoring], place: str) -> None:
    """Scores several trials one after the other, in a process that loads everything once."""
    for one in asked:
        final_score(one, place)


def final_score(asked: FinalScoring, place: str) -> dict[str, float]:
    """Scores a trial once on the test split, as it ended and as it was at its best.

    Args:
        asked: What to score, and where the scores and the evaluation's arrays go.
        place: The sweep's folder, or its URI.

    Returns:
        What `score_split` does, and `label_selected_miou`, `label_selected_acc` and
        `label_selected_epoch` of the state that scored best on the selection split.
    """
    job = asked.job
    with (
        opened(below(place, asked.trial)) as home,
        opened(below(place, asked.target)) as target,
    ):
        last = f"{CHECKPOINTS}/{asked.checkpoint or home.folders(CHECKPOINTS)[-1]}"
        home.fetch(last, BEST)
        checkpoint, split = home.folder / last, job.config.data.test_split
        found = score_split(job, str(checkpoint), str(target.folder), split)
        found |= _label_selected(job, home.folder / BEST, checkpoint, found)
        note_test_scores(target.folder, found)
        target.push(ARRAYS, COUNTS, TEST_SCORES_FILE)
        return found


def _label_selected(job: Job, best: Path, last: Path, found: dict[str, float]) -> dict[str, float]:
    """Scores the state that labels would pick, unless it is the last, which has its scores.

    One that is damaged is left out: no epoch brings it back.
    """
    if not found:
        return {}
    device = torch.device(job.placement.device)
    try:
        epoch = RunState.load(best, device).epoch
    except (FileNotFoundError, DamagedError):
        return {}
    miou, accuracy = found["unsup_miou"], found["unsup_acc"]
    if epoch != RunState.load(last, device).epoch:
        run = _restored(job, best)
        scores = run.score(job.config.data.test_split, refit=False, examples=False).scores
        if scores is None:
            return {}
        miou, accuracy = scores.unsup_miou, scores.unsup_acc
    return {
        "label_selected_miou": miou,
        "label_selected_acc": accuracy,
        "label_selected_epoch": float(epoch),
    }


def score_split(
    job: Job,
    checkpoint: str,
    folder: str,
    split: str,
    refining: Refiners = Refiners(),  # noqa: B008 (frozen)
    watch: Watch | None = None,
) -> dict[str, float]:
    """Scores a trained state and a linear probe of its codes, in this process.

    Args:
        job: What was fitted.
        checkpoint: Folder of its last checkpoint.
        folder: Where the evaluation's arrays go.
        split: The split to score.
        refining: What to score beside the plain prediction.
        watch: Is told how far it is.

    Returns:
        Score metrics in percent; empty where the split has no labels. `linear_miou` and
        `linear_acc` are among them where the training split has labels.
    """
    run = _restored(job, Path(checkpoint))
    run.watch = watch or run.watch
    evaluation = run.score(split, refit=False, refining=refining)
    write_evaluation(evaluation, Path(folder))
    write_counts(evaluation, Path(folder))
    found = score_metrics(evaluation, run.truth)
    if not found or not run.reader.manifest.splits[run.config.data.train_split].labelled:
        return found
    (probed,) = run.linear(split, refining=refining)
    return found | linear_metrics(probed)


def _restored(job: Job, checkpoint: Path) -> Run:
    device = torch.device(job.placement.device)
    run = build_run(_alone(job), PlainContext(device=device, history=[]))
    run.load(checkpoint)
    return run


def _alone(job: Job) -> Job:
    """Has a process on a CPU read its rows itself, except beside worker groups.

    Ray starts several processes before the first row comes, and its tasks share the cores with the
    process that waits for them.
    """
    grouped = job.config.resources.num_workers not in (0, "auto")
    return job if job.placement.device == "cuda" or grouped else job.reading_itself()


def build_run(
    job: Job,
    context: RunContext,
    manifest: Manifest | None = None,
    store: FeatureStore | None = None,
) -> Run:
    """Builds what a job describes, in this process.

    Args:
        job: What to fit or to score.
        context: What surrounds the run.
        manifest: Of the job's data, or of a part of it; read from `job.root` if unset.
        store: Has the features that the job names; the environment's if unset.
    """
    config, method = job.config, methods.get(job.method)
    _begin(config)
    data = _open_set(job, method.needs(config.method), context.device, manifest, store)
    return assemble(config, method, data, context)


def _begin(config: Config[MethodConfig]) -> None:
    """Readies a process, which may have run others before."""
    torch.set_num_threads(config.resources.threads)
    give_memory_back()


def _open_set(
    job: Job,
    needs: Needs,
    device: torch.device,
    manifest: Manifest | None = None,
    store: FeatureStore | None = None,
) -> OpenSet:
    """Opens a job's data: read in this process, or in tasks of Ray where the job says."""
    placement, stream = job.placement, stream_here
    if placement.reading:
        stream = RayStream(placement.reading, job.config.resources.data_cpus_per_worker)
    stored = open_stored(placement.stored, needs, device, store)
    return OpenSet(job.root, manifest or load_manifest(job.root), stream, stored)
