"""Which features of a sweep are stored; they are computed before its first trial.

Views of images that come again and again are the frames of clustering and scoring, and fixed crops
of training. `features.store.rule` says which are stored; those are computed on the whole cluster,
and the jobs name them.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import ray
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from usseg_ray import methods
from usseg_ray.cluster.feature_actors import ray_features
from usseg_ray.core.config import Config, MethodConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.records import DamagedError, read_json, write_json
from usseg_ray.core.types import MaskRecipe, Needs
from usseg_ray.core.views import Crops, FixedView, Frame
from usseg_ray.data.blocks import Block
from usseg_ray.data.plans import Piece
from usseg_ray.data.reader import crops_of
from usseg_ray.data.reading import Showing
from usseg_ray.features.backbones import Backbone, build_backbone
from usseg_ray.features.store.entry import FeatureEntry
from usseg_ray.features.store.extraction import FeatureRequest, Features, features_here, want
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.recipe import Part, Views, parts_of
from usseg_ray.features.store.rule import Mode
from usseg_ray.features.store.store import SHARED, FeatureStore, default_store
from usseg_ray.scoring.protocols import find_protocol
from usseg_ray.sweeps.method_plan import MethodPlan
from usseg_ray.sweeps.plan import Plan, planned_epochs
from usseg_ray.trials.forecast import clock_of, excerpt
from usseg_ray.trials.job import StoredView

FEW_ROWS = 256
"""So many are computed before a pool of actors has started (docs/performance.md), or soon after."""
CHOSEN_FILE = "features.json"


@dataclass
class _Use:
    """A view of a split that methods come back to.

    Attributes:
        split: The split.
        view: How its images are shown.
        parts: What the methods read of it.
        passes: Walks over it, of all trials together.
        methods: Who reads it.
        masks: Principal masks that are looked at again and again.
    """

    split: str
    view: FixedView
    parts: tuple[Part, ...] = ()
    passes: float = 0.0
    methods: list[str] = field(default_factory=list)
    masks: set[MaskRecipe] = field(default_factory=set)

    @property
    def photometric(self) -> Views | None:
        """The photometric views of the rows, where it is of these."""
        view = self.view
        return Views(draws=view.draws, jitter=view.jitter) if view.draws and view.jitter else None


@contextmanager
def stored_features(
    plan: Plan, device: str, folder: Path, console: Console
) -> Iterator[dict[str, tuple[StoredView, ...]]]:
    """Has those features computed that a sweep comes back to, on the whole cluster.

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
    store = default_store(lambda said: console.print(said, markup=False, highlight=False))
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
        asked = [(use, _wanted(plan, use, backbone, device)) for use in uses]
        chosen = _chosen(plan, store, asked, folder, console)
        features = _computing(backbone, device)
        for use, wanted in asked:
            if wanted.entry.key in chosen:
                held.enter_context(_computed(store, wanted, features, console))
                _find_masks(store, wanted, use.masks, console)
                view = StoredView(use.split, use.view, wanted.entry.key)
                for method in use.methods:
                    stored[method] = (*stored.get(method, ()), view)
        yield stored


@contextmanager
def stored_excerpt(
    plan: Plan, device: str
) -> Iterator[tuple[Plan, FeatureStore, float | None, int]]:
    """Computes features of a few images of what a sweep's trials would read, to time them by.

    Of several fixed crops one is computed and read. The test split, which trials leave alone, is
    taken to last as long as the others' rows.

    Args:
        plan: The sweep.
        device: `cpu` or `cuda`.

    Yields:
        The plan with that one crop, on what would be stored, a store that has it of a
        `forecast.excerpt`, the seconds that the features of all images would take, `None` where
        none would be stored, and the bytes of those that are not stored yet.
    """
    known, mode = default_store(), plan.config.resources.features
    uses = _uses(plan) if mode != "recompute" else []
    parts = tuple(replace(part, config=_one_crop(part.config)) for part in plan.parts)
    small = replace(plan, parts=parts, manifest=excerpt(plan.manifest, {use.split for use in uses}))
    stored: dict[str, tuple[StoredView, ...]] = {}
    # By the size of a frame, on which the time of a row depends: seconds, rows, rows to compute.
    timed, seconds, promised = dict[int, list[float]](), None, 0
    with TemporaryDirectory() as folder, ExitStack() as held:
        store = FeatureStore(FeatureFolder(Path(folder)))
        if not uses:
            yield plan.on(device, "", stored), store, None, 0
            return
        backbone = build_backbone(plan.config.backbone)
        worked = clock_of(plan.config, torch.device(device))
        for use in uses:
            wanted = _wanted(plan, use, backbone, device)
            entry = known.find(wanted.entry.key, wanted.parts)
            if entry is not None:
                entry.close()
            elif not known.decide(wanted, passes=use.passes, promised=promised, mode=mode).stored:
                continue
            of_size = timed.setdefault(use.view.frame.size, [0.0, 0.0, 0.0])
            if entry is None:
                promised += wanted.num_bytes
                of_size[2] += wanted.entry.rows
            if use.split == plan.config.data.test_split:
                continue
            one = replace(use, view=replace(use.view, crops=_first(use.view.crops)))
            few, started = _wanted(small, one, backbone, device), worked()
            held.enter_context(store.obtain(few, features_here(backbone, device)))
            for masks in one.masks:
                store.obtain_masks(few, masks)
            of_size[0] += worked() - started
            of_size[1] += few.entry.rows
            view = StoredView(one.split, one.view, few.entry.key)
            for method in use.methods:
                stored[method] = (*stored.get(method, ()), view)
        if timed:
            seconds = sum(spent / max(rows, 1) * left for spent, rows, left in timed.values())
        yield small.on(device, "", stored), store, seconds, promised


def _first(crops: Crops | None) -> Crops | None:
    """Leaves one of several fixed crops."""
    return replace(crops, policy="centre", jpeg=None) if crops is not None else None


def _one_crop(config: Config[MethodConfig]) -> Config[MethodConfig]:
    """Has a run read one fixed crop an image, where it would read several in turn."""
    if config.data.crops == "random":
        return config
    one = config.data.model_copy(update={"crops": "centre", "crop_jpeg": None})
    return config.model_copy(update={"data": one})


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
    asked: list[tuple[_Use, FeatureRequest]],
    folder: Path,
    console: Console,
) -> list[str]:
    """Chooses the entries to read, once in the life of a sweep: keys in the store."""
    known = load_chosen(folder)
    if known is not None:
        return known
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    mode, there, promised = plan.config.resources.features, [], 0
    with ExitStack() as held:
        missing = []
        for use, wanted in asked:
            entry = store.find(wanted.entry.key, wanted.parts)
            if entry is None:
                missing.append((use, wanted))
            else:
                held.enter_context(entry)
                there.append(wanted.entry.key)
                say(f"{wanted.name}: in the store.")
        for use, wanted in missing:
            decision = store.decide(wanted, passes=use.passes, promised=promised, mode=mode)
            say(decision.sentence)
            if decision.stored:
                there.append(wanted.entry.key)
                promised += wanted.num_bytes
    save_chosen(there, folder)
    return there


def save_chosen(keys: list[str], folder: Path) -> None:
    """Writes which entries of the store are read into a sweep's folder."""
    write_json(folder / CHOSEN_FILE, keys)


def load_chosen(folder: Path) -> list[str] | None:
    """Reads what `save_chosen` wrote; `None` where that is nothing, or damaged."""
    try:
        return read_json(folder / CHOSEN_FILE, list[str], "They are chosen again.")
    except (FileNotFoundError, DamagedError):
        return None


def _wanted(plan: Plan, use: _Use, backbone: Backbone, device: str) -> FeatureRequest:
    return want(
        plan.root,
        plan.manifest,
        use.split,
        plan.config.backbone,
        backbone,
        frame=use.view.frame,
        crops=use.view.crops,
        views=use.photometric,
        parts=use.parts,
        arithmetic=plan.config.resources.arithmetic(device),
    )


def _computing(backbone: Backbone, device: str) -> Features:
    """Computes on the whole cluster, or here on a CPU what would not wait for a pool of actors."""

    def features(wanted: FeatureRequest, pieces: list[Piece]) -> Iterator[Block]:
        rows = sum(piece.rows for piece in pieces) * wanted.entry.rows_per_image
        here = device == "cpu" and rows <= FEW_ROWS
        compute = features_here(backbone, device) if here else ray_features(device)
        return compute(wanted, pieces)

    return features


def _bar(console: Console, what: str) -> Progress:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _find_masks(
    store: FeatureStore, wanted: FeatureRequest, recipes: Iterable[MaskRecipe], console: Console
) -> None:
    for recipe in recipes:
        with _bar(console, "Finding masks") as progress:
            bar = progress.add_task("", total=wanted.entry.rows)
            store.obtain_masks(wanted, recipe, partial(progress.advance, bar))


def _computed(
    store: FeatureStore, wanted: FeatureRequest, features: Features, console: Console
) -> FeatureEntry:
    with _bar(console, "Computing features") as progress:
        bar = progress.add_task("", total=wanted.entry.rows)
        return store.obtain(
            wanted,
            features,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )


def _uses(plan: Plan) -> list[_Use]:
    """Lists the views that a sweep comes back to, with what its methods read of them."""
    found: dict[tuple[str, FixedView], _Use] = {}
    for part in plan.parts:
        needs = _needs(plan, part)
        if not all(one.storable for one in needs):
            continue
        parts = tuple(dict.fromkeys(name for one in needs for name in parts_of(one)))
        for split, view, passes in _views(plan, part, needs[0]):
            there = plan.manifest.splits.get(split)
            if there is None or not there.rows or view is None:
                continue
            use = found.setdefault((split, view), _Use(split, view))
            read: tuple[Part, ...] = ("tokens",) if view.draws else parts
            use.parts = tuple(dict.fromkeys((*use.parts, *read)))
            use.passes += passes
            use.methods.append(part.method)
            if (split, view) == _training_view(part):
                use.masks |= _masks(plan, part)
    return list(found.values())


def _training_view(part: MethodPlan) -> tuple[str, FixedView | None]:
    data = part.config.data
    return data.train_split, Showing(Frame(data.train_size), crops_of(data)).view


def _masks(plan: Plan, part: MethodPlan) -> set[MaskRecipe]:
    """Lists the masks that trials of a method look at in more than one pass, as far as planned."""
    method = methods.get(part.method)
    drawn = [sample for name, sample in plan.draws.values() if name == part.method]
    jobs = [plan.job(part.method, sample) for sample in drawn if sample is not None]
    found = (method.needs(job.config.method).masks for job in jobs if planned_epochs(job) > 1)
    return {one for one in found if one is not None}


def _needs(plan: Plan, part: MethodPlan) -> list[Needs]:
    """Lists what a method may need in any of its trials."""
    method = methods.get(part.method)
    return [method.needs(job.config.method) for one, _, job in plan.corners if one is part]


def _views(
    plan: Plan, part: MethodPlan, needs: Needs
) -> Iterator[tuple[str, FixedView | None, float]]:
    """Yields splits and views of a method's first trial, and the passes of all expected runs.

    A view is `None` where it shows something else in every pass.
    """
    config, data, asked = part.config, part.config.data, plan.request
    finalists = min(asked.finalists, plan.num_trials)
    runs = (plan.num_trials + finalists * (asked.seeds - 1)) / len(plan.parts)
    finals = finalists * asked.seeds / len(plan.parts)
    epochs = planned_epochs(plan.job(part.method, {}))
    scored = -(-epochs // config.train.eval_every)
    protocol = find_protocol(config.protocol)
    frame = Showing(protocol.frame(data.eval_size)).view
    square = Showing(Frame(data.eval_size, "centre", protocol.filter)).view
    # A final score walks the training split once, for its linear probe.
    yield data.train_split, square, runs * scored + finals
    yield data.selection_split, frame, runs * scored
    yield data.test_split, frame, finals + 1  # once for the baselines
    _, crops = _training_view(part)
    yield data.train_split, crops, runs * epochs
    if crops is not None and needs.photometric is not None and data.view_draws:
        # Every pass reads one draw of each row.
        passes = runs * epochs / data.view_draws
        yield data.train_split, crops.recoloured(data.view_draws, needs.photometric), passes
