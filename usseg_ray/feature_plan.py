"""Which features of a sweep are worth storing; they are computed before its first trial.

Views of images that come again and again are the frames of clustering and scoring, and fixed crops
of training. The store says what each would cost; what pays is computed on the whole cluster, and
the jobs name it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from usseg_ray import methods
from usseg_ray.backbones import Backbone, build_backbone
from usseg_ray.batch import Needs
from usseg_ray.config import build_config
from usseg_ray.data.reader import crops_of
from usseg_ray.data.reading import Crops, Showing, view_name
from usseg_ray.data.transforms import Frame
from usseg_ray.feature_actors import ray_features
from usseg_ray.feature_extraction import Wanted, probe, want
from usseg_ray.feature_recipe import Part, parts_of
from usseg_ray.feature_store import FeatureStore, default_store
from usseg_ray.job import Draw, Jobs, StoredView
from usseg_ray.plan import MethodPlan, Plan, planned_epochs
from usseg_ray.protocols import find_protocol

WORTH_A_THOUGHT_S = 30.0
"""Where a whole sweep computes for less, weighing a store costs more than one would save."""
PROBE_S = 1.0


@dataclass
class _Use:
    """A view of a split that methods come back to.

    Attributes:
        split: The split.
        frame: What its images, or crops, are brought to.
        crops: Its fixed crops.
        parts: What the methods read of it.
        passes: Walks over it, of all trials together.
        methods: Who reads it.
    """

    split: str
    frame: Frame
    crops: Crops | None
    parts: tuple[Part, ...]
    passes: float
    methods: list[str]


def store_features(plan: Plan, jobs: Jobs, device: str, console: Console) -> Jobs:
    """Has those features computed that a sweep comes back to often enough, on the whole cluster.

    Args:
        plan: The sweep.
        jobs: Its jobs.
        device: `cpu` or `cuda`.
        console: Where each decision is printed.

    Returns:
        The jobs, which name what is stored for them.
    """
    config, mode = plan.config, plan.config.resources.features
    uses = _uses(plan) if mode != "recompute" else []
    if not uses:
        return jobs
    store = default_store(lambda said: console.print(said, highlight=False))
    backbone = build_backbone(config.backbone)
    asked = [(use, _wanted(plan, use, backbone, device)) for use in uses]
    if mode == "auto" and _seconds(asked, backbone, device) < WORTH_A_THOUGHT_S:
        return jobs
    stored: dict[str, tuple[StoredView, ...]] = {}
    for use, wanted in asked:
        cpus = ray.cluster_resources().get("CPU", 1.0)
        decision = store.plan(wanted, backbone, device, passes=use.passes, cpus=cpus, mode=mode)
        console.print(decision.sentence, highlight=False)
        if decision.choice == "cache":
            _compute(store, wanted, device, console)
            view = StoredView(use.split, view_name(use.frame, use.crops), wanted.entry.key)
            for method in use.methods:
                stored[method] = (*stored.get(method, ()), view)
    return jobs.with_stored(stored)


def _seconds(asked: list[tuple[_Use, Wanted]], backbone: Backbone, device: str) -> float:
    """Estimates what all passes would take, after a second of computing the first one's rows."""
    first = asked[0][1]
    row = sum(probe(first, backbone, device, PROBE_S))
    area = first.entry.recipe.frame.size**2
    return sum(
        use.passes * wanted.data.splits[use.split].rows * row * use.frame.size**2 / area
        for use, wanted in asked
    )


def _wanted(plan: Plan, use: _Use, backbone: Backbone, device: str) -> Wanted:
    precision = plan.config.resources.precision
    halved = precision == "bfloat16" or (precision == "auto" and device == "cuda")
    return want(
        plan.root,
        plan.manifest,
        use.split,
        plan.config.backbone,
        backbone,
        frame=use.frame,
        crops=use.crops,
        parts=use.parts,
        arithmetic="bfloat16" if halved else "float32",
    )


def _compute(store: FeatureStore, wanted: Wanted, device: str, console: Console) -> None:
    columns = (TextColumn("Computing features"), BarColumn(), MofNCompleteColumn())
    quiet = not console.is_terminal
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=quiet
    ) as progress:
        bar = progress.add_task("", total=wanted.entry.rows)
        store.obtain(
            wanted,
            ray_features(device),
            lambda done, total: progress.update(bar, completed=done, total=total),
        ).close()


def _uses(plan: Plan) -> list[_Use]:
    """Lists the views that a sweep comes back to, with what its methods read of them."""
    found: dict[tuple[str, str], _Use] = {}
    for part in plan.parts:
        needs = _needs(part)
        parts = tuple(dict.fromkeys(name for one in needs for name in parts_of(one)))
        if not all(one.features for one in needs):
            continue
        for split, showing, passes in _views(plan, part):
            there = plan.manifest.splits.get(split)
            if there is None or not there.rows or not showing.repeats:
                continue
            key = (split, view_name(showing.frame, showing.crops))
            use = found.setdefault(key, _Use(split, showing.frame, showing.crops, (), 0.0, []))
            use.parts = tuple(dict.fromkeys((*use.parts, *parts)))
            use.passes += passes
            use.methods.append(part.method)
    return list(found.values())


def _needs(part: MethodPlan) -> list[Needs]:
    """Lists what a method may need in any of its trials."""
    method = methods.get(part.method)
    configs = (
        build_config(method.Config, [part.base, sample, part.assigned]) for sample in part.corners
    )
    return [method.needs(config.method) for config in configs]


def _views(plan: Plan, part: MethodPlan) -> Iterator[tuple[str, Showing, float]]:
    """Yields split, view and number of passes of all of a method's trials."""
    config, data = part.config, part.config.data
    trials = max(1, plan.num_trials // len(plan.parts))
    epochs = planned_epochs(plan.jobs().job(Draw(part.method, {})))
    scored = -(-epochs // config.train.eval_every)
    protocol = find_protocol(config.protocol)
    square = Frame(data.eval_size, "centre", protocol.filter)
    yield data.train_split, Showing(square), trials * scored
    yield data.selection_split, Showing(protocol.frame(data.eval_size)), trials * scored
    yield data.test_split, Showing(protocol.frame(data.eval_size)), 1
    if data.crops != "random":
        yield data.train_split, Showing(Frame(data.train_size), crops_of(data)), trials * epochs
