"""Which features of a sweep are worth storing; they are computed before its first trial.

Views of images that come again and again are the frames of clustering and scoring, and fixed crops
of training. The store says what each would cost; what pays is computed on the whole cluster, and
the jobs name it.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from usseg_ray import methods
from usseg_ray.cluster.feature_actors import ray_features
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Needs
from usseg_ray.data.blocks import Block
from usseg_ray.data.plans import Piece
from usseg_ray.data.reader import crops_of
from usseg_ray.data.reading import Crops, Showing, view_name
from usseg_ray.data.transforms import Frame
from usseg_ray.features.backbones import Backbone, build_backbone
from usseg_ray.features.store.cost import Mode
from usseg_ray.features.store.entry import Entry
from usseg_ray.features.store.extraction import Features, Wanted, features_here, probe, want
from usseg_ray.features.store.recipe import Part, Views, parts_of
from usseg_ray.features.store.store import SHARED, FeatureStore, Measure, default_store
from usseg_ray.ops.photometric import drawn_view
from usseg_ray.scoring.protocols import find_protocol
from usseg_ray.sweeps.plan import MethodPlan, Plan, planned_epochs
from usseg_ray.trials.job import StoredView

WORTH_A_THOUGHT_S = 30.0
"""Where a whole sweep computes for less, weighing a store costs more than one would save."""
PROBE_S, WEIGH_S = 1.0, 2.0
POOL_START_S = 6.0
"""What takes less is computed before a pool of actors has started (docs/performance.md)."""
CHOSEN_FILE = "features.json"


@dataclass
class _Use:
    """A view of a split that methods come back to.

    Attributes:
        split: The split.
        frame: What its images, or crops, are brought to.
        crops: Its fixed crops.
        views: Photometric views of them, in place of the rows themselves.
        parts: What the methods read of it.
        passes: Walks over it, of all trials together.
        methods: Who reads it.
    """

    split: str
    frame: Frame
    crops: Crops | None
    views: Views | None
    parts: tuple[Part, ...] = ()
    passes: float = 0.0
    methods: list[str] = field(default_factory=list)

    @property
    def view(self) -> str:
        """How it is shown, in the words of `types.Rows`."""
        shown = view_name(self.frame, self.crops)
        return drawn_view(shown, self.views.draws, self.views.jitter) if self.views else shown


@contextmanager
def stored_features(
    plan: Plan, device: str, folder: Path, console: Console
) -> Iterator[dict[str, tuple[StoredView, ...]]]:
    """Has those features computed that a sweep comes back to often enough, on the whole cluster.

    They are held until the end of the block, so that no other sweep takes their room. What was
    chosen is kept in the sweep's folder: all of its trials see the same features, also after a
    resume.

    Args:
        plan: The sweep.
        device: `cpu` or `cuda`.
        folder: The sweep's folder.
        console: Where each decision is printed.

    Yields:
        Method -> what is stored for it.

    Raises:
        UserError: `resources.features` asks for a store that other machines cannot read.
    """
    store = default_store(lambda said: console.print(said, highlight=False))
    mode = plan.config.resources.features
    uses = _uses(plan) if mode != "recompute" else []
    if uses and not _readable_everywhere(store, sum(node["Alive"] for node in ray.nodes()), mode):
        uses = []
    stored: dict[str, tuple[StoredView, ...]] = {}
    with ExitStack() as held:
        if not uses:
            yield stored
            return
        backbone = build_backbone(plan.config.backbone)
        measure = _measuring(backbone, device)
        asked = [(use, _wanted(plan, use, backbone, device)) for use in uses]
        chosen = _chosen(plan, store, asked, measure, folder, console)
        features = _computing(backbone, device, measure)
        for use, wanted in asked:
            if wanted.entry.key in chosen:
                held.enter_context(_computed(store, wanted, features, console))
                view = StoredView(use.split, use.view, wanted.entry.key, use.views is not None)
                for method in use.methods:
                    stored[method] = (*stored.get(method, ()), view)
        yield stored


def _readable_everywhere(store: FeatureStore, num_nodes: int, mode: Mode) -> bool:
    """Says whether every machine finds what one of them computed."""
    if store.shared is not None or num_nodes == 1:
        return True
    if mode == "cache":
        raise UserError(
            f"resources.features=cache: {num_nodes} machines need a place that all of them reach. "
            f"Set {SHARED} to a URI, such as s3://bucket/features, on each."
        )
    return False


def _chosen(
    plan: Plan,
    store: FeatureStore,
    asked: list[tuple[_Use, Wanted]],
    measure: Measure,
    folder: Path,
    console: Console,
) -> list[str]:
    """Chooses the entries to read, once in the life of a sweep: keys in the store."""
    path = folder / CHOSEN_FILE
    if path.exists():
        known: list[str] = json.loads(path.read_text())
        return known
    mode, there, missing = plan.config.resources.features, [], []
    for use, wanted in asked:
        entry = store.find(wanted.entry.key, wanted.parts)
        if entry is None:
            missing.append((use, wanted))
        else:
            entry.close()
            there.append(wanted.entry.key)
    if missing and (mode == "cache" or _seconds(missing, measure) >= WORTH_A_THOUGHT_S):
        cpus = ray.cluster_resources().get("CPU", 1.0)
        for use, wanted in missing:
            decision = store.plan(wanted, measure, passes=use.passes, cpus=cpus, mode=mode)
            console.print(decision.sentence, highlight=False)
            if decision.choice == "cache":
                there.append(wanted.entry.key)
    path.write_text(json.dumps(there))
    return there


def _seconds(asked: list[tuple[_Use, Wanted]], measure: Measure) -> float:
    """Estimates what all passes would take, after a second of computing the first one's rows."""
    first = asked[0][1]
    row = sum(measure(first, seconds=PROBE_S))
    area = first.entry.recipe.frame.size**2
    return sum(
        use.passes * wanted.entry.rows * row * use.frame.size**2 / area for use, wanted in asked
    )


def _measuring(backbone: Backbone, device: str) -> Measure:
    """Measures what a row takes: here, or where the GPUs are, which the driver may not have.

    Splits of a set are taken to be alike, and measured once.
    """
    known: dict[tuple[str, tuple[Part, ...], float], tuple[float, float]] = {}

    def measure(wanted: Wanted, seconds: float = WEIGH_S) -> tuple[float, float]:
        alike = wanted.entry.recipe.model_copy(update={"data": ""})
        key = alike.key, wanted.parts, seconds
        if key not in known:
            if device == "cpu":
                known[key] = probe(wanted, backbone, device, seconds)
            else:
                task = ray.remote(num_cpus=1, num_gpus=1, max_calls=1)(_measure_there)
                known[key] = ray.get(task.remote(wanted, device, seconds))
        return known[key]

    return measure


def _measure_there(wanted: Wanted, device: str, seconds: float) -> tuple[float, float]:
    return probe(wanted, build_backbone(wanted.backbone), device, seconds)


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
        views=use.views,
        parts=use.parts,
        arithmetic="bfloat16" if halved else "float32",
    )


def _computing(backbone: Backbone, device: str, measure: Measure) -> Features:
    """Computes on the whole cluster, or here on a CPU what would not wait for a pool of actors."""

    def features(wanted: Wanted, pieces: list[Piece]) -> Iterator[Block]:
        rows = sum(piece.rows for piece in pieces) * wanted.entry.rows_per_image
        here = device == "cpu" and rows * sum(measure(wanted)) < POOL_START_S
        compute = features_here(backbone, device) if here else ray_features(device)
        return compute(wanted, pieces)

    return features


def _computed(store: FeatureStore, wanted: Wanted, features: Features, console: Console) -> Entry:
    columns = (TextColumn("Computing features"), BarColumn(), MofNCompleteColumn())
    quiet = not console.is_terminal
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=quiet
    ) as progress:
        bar = progress.add_task("", total=wanted.entry.rows)
        return store.obtain(
            wanted,
            features,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )


def _uses(plan: Plan) -> list[_Use]:
    """Lists the views that a sweep comes back to, with what its methods read of them."""
    found: dict[tuple[str, str], _Use] = {}
    for part in plan.parts:
        needs = _needs(plan, part)
        if not all(one.features for one in needs):
            continue
        parts = tuple(dict.fromkeys(name for one in needs for name in parts_of(one)))
        for new, passes in _views(plan, part, needs[0]):
            there = plan.manifest.splits.get(new.split)
            if there is None or not there.rows or not Showing(new.frame, new.crops).repeats:
                continue
            use = found.setdefault((new.split, new.view), new)
            read: tuple[Part, ...] = ("tokens",) if new.views else parts
            use.parts = tuple(dict.fromkeys((*use.parts, *read)))
            use.passes += passes
            use.methods.append(part.method)
    return list(found.values())


def _needs(plan: Plan, part: MethodPlan) -> list[Needs]:
    """Lists what a method may need in any of its trials."""
    method = methods.get(part.method)
    return [method.needs(job.config.method) for one, _, job in plan.corners if one is part]


def _views(plan: Plan, part: MethodPlan, needs: Needs) -> Iterator[tuple[_Use, float]]:
    """Yields the views of a method's first trial, and the passes of all expected runs."""
    config, data, asked = part.config, part.config.data, plan.request
    finalists = min(asked.finalists, plan.num_trials)
    runs = (plan.num_trials + finalists * (asked.seeds - 1)) / len(plan.parts)
    finals = finalists * asked.seeds / len(plan.parts)
    epochs = planned_epochs(plan.job(part.method, {}))
    scored = -(-epochs // config.train.eval_every)
    protocol = find_protocol(config.protocol)
    frame = protocol.frame(data.eval_size)
    square = Frame(data.eval_size, "centre", protocol.filter)
    # A final score walks the training split once, for its linear probe.
    yield _Use(data.train_split, square, None, None), runs * scored + finals
    yield _Use(data.selection_split, frame, None, None), runs * scored
    yield _Use(data.test_split, frame, None, None), finals + 1  # once for the baselines
    crops, shown = crops_of(data), Frame(data.train_size)
    yield _Use(data.train_split, shown, crops, None), runs * epochs
    if needs.photometric is not None and data.view_draws:
        views = Views(draws=data.view_draws, jitter=needs.photometric)
        # Every pass reads one draw of each row.
        yield _Use(data.train_split, shown, crops, views), runs * epochs / data.view_draws
