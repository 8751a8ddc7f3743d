"""A sweep before it starts: from a request to its methods, and the trials that follow.

Everything that can be wrong is found here, in seconds, before Ray starts or a GPU is touched. A
sweep has a part for each of its methods; its trials go round the parts, so that every method's
defaults are among the first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

from usseg_ray import methods
from usseg_ray.core.calibration import Calibration
from usseg_ray.core.config import Config, MethodConfig, with_values
from usseg_ray.core.errors import UserError, about
from usseg_ray.core.types import FeatureSpec
from usseg_ray.data.library import SYNTHETIC, open_data
from usseg_ray.data.manifest import Manifest
from usseg_ray.engine.model import method_spec
from usseg_ray.features.backbones import build_backbone
from usseg_ray.scoring.objective import (
    CONSENSUS,
    MIOU,
    MODULARITY,
    picked_by,
    require_labels,
    resolve_objective,
)
from usseg_ray.scoring.protocols import find_protocol, stamp
from usseg_ray.settings.assigned import assigned_to, flatten_assigned
from usseg_ray.sweeps.calibrate import calibrate, check_unchanged, with_calibration
from usseg_ray.sweeps.earlier import known_trials
from usseg_ray.sweeps.method_plan import (
    MethodPlan,
    check_batches,
    check_comparable,
    count_clusters,
    first_settings,
    plan_method,
)
from usseg_ray.sweeps.presets import preset_settings
from usseg_ray.sweeps.request import Request
from usseg_ray.sweeps.space import Sample
from usseg_ray.trials.job import Job, Placement, StoredView
from usseg_ray.trials.trial import Trial, trial_name

Draws = Mapping[str, tuple[str, Sample | None]]
"""Name of each trial -> its method and what it draws, `None` where Optuna decides as it goes."""


@dataclass(frozen=True)
class Plan:
    """A checked sweep.

    Attributes:
        request: What was asked.
        parts: Its methods, in the order asked.
        root: URI of the data.
        manifest: The data's manifest.
        known: Trials of earlier sweeps that a searcher learns from.
        calibration: What its settings follow from, where anything was calibrated.
    """

    request: Request
    parts: tuple[MethodPlan, ...]
    root: str
    manifest: Manifest
    known: tuple[Trial, ...] = ()
    calibration: Calibration | None = None

    @property
    def config(self) -> Config[MethodConfig]:
        """Settings of the first trial; all but what `earlier.is_free` says hold for all."""
        return self.parts[0].config

    @property
    def objective(self) -> str:
        """The metric that trials are ranked by."""
        return resolve_objective(
            self.request.objective, self.manifest, self.config.data.selection_split
        )

    @property
    def picked(self) -> str:
        """What picked among the trials; nothing where there is only one."""
        split = self.config.data.selection_split
        return picked_by(self.objective, split) if self.num_trials > 1 else ""

    @property
    def trial_gpus(self) -> float:
        """GPUs of each trial; 0 until the plan is on its cluster, and where that has none."""
        resources = self.config.resources
        on_gpus = self.parts[0].placement.device == "cuda"
        return resources.processes * resources.gpus_per_worker if on_gpus else 0.0

    @property
    def trial_hour_price(self) -> float | None:
        """What an hour of a trial costs, where a price was given."""
        price = self.request.gpu_hour_price
        return None if price is None else price * self.trial_gpus

    @property
    def draws(self) -> Draws:
        """Says of each trial, in rounds over the methods, what it draws; the first: nothing."""
        open_ones: list[Sample | None] = [{}, *[None] * (self.request.num_samples - 1)]
        rows = (
            [(part.method, sample) for sample in part.samples or open_ones] for part in self.parts
        )
        rounds = (trial for row in zip_longest(*rows) for trial in row if trial is not None)
        return {trial_name(index): trial for index, trial in enumerate(rounds)}

    @property
    def is_planned(self) -> bool:
        """Whether it is known what every trial draws."""
        return all(sample is not None for _, sample in self.draws.values())

    @property
    def num_trials(self) -> int:
        """How many trials the sweep has."""
        return len(self.draws)

    @property
    def has_test(self) -> bool:
        """Whether there is a labelled split that finalists are scored on."""
        info = self.manifest.splits.get(self.config.data.test_split)
        return info is not None and info.labelled > 0

    @property
    def train_rows(self) -> int:
        """Images of the training split."""
        return self.manifest.splits[self.config.data.train_split].rows

    @property
    def cut(self) -> float:
        """Share of the training images that clusters and scores do not see: outside the square."""
        config = self.config
        if find_protocol(config.protocol).crop != "centre":
            return 0.0
        return self.manifest.cut(config.data.train_split)

    @property
    def final_runs(self) -> int:
        """How many runs of finalists with further seeds follow the trials."""
        finalists = min(self.request.finalists, self.num_trials) if self.has_test else 0
        return finalists * (self.request.seeds - 1)

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest trial that can be drawn."""
        return max(planned_epochs(job) for _, _, job in self.corners)

    @cached_property
    def corners(self) -> tuple[tuple[MethodPlan, Sample, Job], ...]:
        """Each method's first trial, and one more for either end of each range.

        Raises:
            UserError: The settings at an end are not valid together.
        """
        found = []
        for part in self.parts:
            dimensions = part.space.space.items()
            ends: list[Sample] = [{key: value} for key, d in dimensions for value in d.ends]
            for sample in ({}, *ends):
                with about(_corner(self, part, sample)):
                    found.append((part, sample, self.job(part.method, sample)))
        return tuple(found)

    def protocol(self, split: str | None = None) -> str:
        """Names what scores are measured under, on the selection split if none is named."""
        selection = self.config.data.selection_split
        return stamp(self.config, self.manifest.name, split or selection)

    def job(self, method: str, sample: Sample, seed: int | None = None) -> Job:
        """Makes a job of what a trial drew; K follows from the classes where nothing set it.

        Args:
            method: Name of its method.
            sample: What it drew.
            seed: In place of its own, for a finalist that is trained again.

        Raises:
            UserError: The sample is not valid.
        """
        (part,) = (part for part in self.parts if part.method == method)
        config, classes = with_values(part.config, sample), len(self.manifest.classes)
        changed = {} if seed is None else {"seed": seed}
        if config.num_clusters is None and classes:
            changed["num_clusters"] = max(2, round(classes * config.clusters_per_class))
        return Job(method, config.model_copy(update=changed), self.root, part.placement)

    def allows(self, part: MethodPlan, sample: Sample) -> bool:
        """Tells whether a sample outside the checked ranges is valid all the same."""
        try:
            _build(self.job(part.method, sample), {}, self.train_rows)
        except UserError:
            return False
        return True

    def first_jobs(self) -> list[Job]:
        """Makes the jobs of each method's first trial."""
        return [self.job(part.method, {}) for part in self.parts]

    def on(self, device: str, reading: str, stored: Mapping[str, tuple[StoredView, ...]]) -> "Plan":
        """Returns the same plan on a cluster; see `Placement`, `stored` is for each method."""
        parts = (
            replace(part, placement=Placement(device, reading, stored.get(part.method, ())))
            for part in self.parts
        )
        return replace(self, parts=tuple(parts))

    def in_processes(self, num_workers: int | str) -> "Plan":
        """Returns the same plan with `resources.num_workers` chosen, where it was `auto`."""
        resources = self.config.resources.model_copy(update={"num_workers": num_workers})
        parts = (
            replace(part, config=part.config.model_copy(update={"resources": resources}))
            for part in self.parts
        )
        return replace(self, parts=tuple(parts))


def planned_epochs(job: Job) -> int:
    """Says how many epochs a run takes, over all stages; a method without stages has one."""
    method, config = methods.get(job.method), job.config
    return sum(method.stage_epochs(config.method, config.train.epochs)) or 1


def make_plan(request: Request, *, make_data: bool = True) -> Plan:
    """Resolves and checks a request.

    Args:
        request: What was asked.
        make_data: Whether the embedded data may be generated, or only described (`--dry-run`)
            unless something is to be measured on it.

    Returns:
        The plan.

    Raises:
        UserError: A key, value, range, file, split, size or weight is wrong; says which.
    """
    names = list(request.methods)
    preset = preset_settings(request.preset, names)
    assigned, parts = flatten_assigned(request.assigned), []
    for name, own in assigned_to(names, assigned).items():
        with about(name if len(names) > 1 else ""):
            parts.append(plan_method(request, name, preset, own))
    check_comparable(parts)
    measured = parts[0].config.backbone.normalise != "raw"
    root, manifest = open_data(parts[0].config.data, make=make_data or measured)
    calibration = _calibration(request, parts, root, manifest)
    if calibration is not None:
        parts = [with_calibration(part, calibration) for part in parts]
    check_batches(parts)
    objective = resolve_objective(request.objective, manifest, parts[0].config.data.selection_split)
    if request.question == "k":
        parts = [count_clusters(request, part, assigned, len(manifest.classes)) for part in parts]
    known = _known(request, parts, objective)
    plan = Plan(request, tuple(parts), root, manifest, known, calibration)
    _check_labels(plan)
    _check_protocol(plan)
    _check_corners(plan)
    return plan


def _calibration(
    request: Request, parts: list[MethodPlan], root: str, manifest: Manifest
) -> Calibration | None:
    """Calibrates a new run; of one that goes on, reads what was calibrated as it began."""
    split = parts[0].config.data.train_split
    if request.key:
        if request.calibration is not None:
            check_unchanged(request.calibration, manifest, split)
        return request.calibration
    if request.calibrate == "off" and request.effort != "normal":
        raise UserError(f"--effort {request.effort} is for --calibrate on, which it guides.")
    # The built-in data brings settings that were measured on it.
    kept = request.calibrate == "off" or request.preset is not None or request.data == SYNTHETIC
    if kept and parts[0].config.backbone.normalise == "raw":
        return None
    if not manifest.splits.get(split) or not manifest.splits[split].rows:
        return None
    return calibrate(parts, root, manifest, None if kept else request.effort)


def _known(request: Request, parts: list[MethodPlan], objective: str) -> tuple[Trial, ...]:
    """Finds what Optuna is to learn from."""
    if request.warm_start is None:
        return ()
    if request.search != "optuna":
        raise UserError("--warm-start is for --search optuna, which learns from earlier trials.")
    return known_trials(request.warm_start, first_settings(parts), objective)


def _corner(plan: Plan, part: MethodPlan, sample: Sample) -> str:
    """Names an end of a space, or the method where there are several."""
    if sample:
        return f"{part.space.source}: with {sample}"
    return part.method if len(plan.parts) > 1 else ""


def _check_labels(plan: Plan) -> None:
    """Checks that trials can be ranked, and that K is known."""
    split = plan.config.data.selection_split
    if any(part.space.space for part in plan.parts) or len(plan.parts) > 1:
        _check_objective(plan)
        if split == plan.config.data.test_split:
            raise UserError(
                f"data.selection_split and data.test_split are both {split!r}: a split that ranks "
                "trials is not untouched. Choose another, or --set data.test_split=none to go "
                "without a final score."
            )
    unknown = any(part.config.num_clusters is None for part in plan.parts)
    if unknown and not plan.manifest.classes:
        raise UserError(
            f"{plan.root} names no classes, so the number of clusters must be given: "
            "--set num_clusters=K; or --question k finds it."
        )


def _check_objective(plan: Plan) -> None:
    """Checks that every trial will have what it is ranked by, when that is asked for."""
    objective, request = plan.objective, plan.request
    if objective == MIOU:
        require_labels(plan.manifest, plan.config.data.selection_split, plan.root)
    if objective == CONSENSUS and (request.search, request.scheduler) != ("random", "none"):
        raise UserError(
            f"--objective {CONSENSUS} is known when all trials have ended: it can neither guide "
            "--search optuna nor --scheduler asha."
        )
    if objective == CONSENSUS and request.question == "k":
        raise UserError(
            f"--objective {CONSENSUS} compares trials with each other, of whatever K: it cannot "
            "answer --question k."
        )
    for part in plan.parts:
        needs = methods.get(part.method).needs(part.config.method)
        if objective == MODULARITY and not needs.features:
            raise UserError(
                f"--objective {MODULARITY} is of backbone features, and {part.method} uses none."
            )


def _check_protocol(plan: Plan) -> None:
    """Checks that the protocol is defined for every K that can be drawn, and for the frames."""
    protocol, size = find_protocol(plan.config.protocol), plan.config.data.eval_size
    if protocol.size not in (None, size):
        raise UserError(
            f"protocol {protocol.name} is for data.eval_size={protocol.size}, which is {size} here."
            " Leave one of them out."
        )
    for _, _, job in plan.corners if plan.manifest.classes else ():
        protocol.check(job.num_clusters, len(plan.manifest.classes))


def _check_corners(plan: Plan) -> None:
    """Builds every backbone once, and every method at all ends of its space."""
    specs = dict[str, FeatureSpec]()
    for part, sample, job in plan.corners:
        with about(_corner(plan, part, sample)):
            _build(job, specs, plan.train_rows)


def _build(job: Job, specs: dict[str, FeatureSpec], rows: int) -> None:
    """Builds a trial's method once to see that it can be; `specs` keeps backbones' facts."""
    method, config = methods.get(job.method), job.config
    if method.needs(config.method).pair is not None and config.data.crops != "random":
        raise UserError(
            f"method {job.method!r} learns from pairs of random crops: data.crops = random."
        )
    facts = f"{config.backbone} {config.data.train_size} {config.data.eval_size}"
    if facts not in specs:
        specs[facts] = method_spec(config)
        build_backbone(config.backbone)
    tokens = rows * specs[facts].eval_grid ** 2
    if tokens and job.num_clusters > tokens:
        raise UserError(
            f"num_clusters = {job.num_clusters}, but the {rows} images have {tokens} tokens at "
            f"data.eval_size = {config.data.eval_size}: take fewer clusters or larger frames."
        )
    method(config.method, specs[facts], job.num_clusters, config.seed)
