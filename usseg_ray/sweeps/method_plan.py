"""One method's part of a sweep: its settings in all their layers, and what its trials draw.

Also whether the parts of several methods go together.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from usseg_ray import methods
from usseg_ray.core.config import (
    Config,
    MethodConfig,
    Origin,
    build_config,
    flatten,
    with_values,
)
from usseg_ray.core.errors import UserError
from usseg_ray.models.origin import origin_of
from usseg_ray.settings.primaps import PriMaPsConfig
from usseg_ray.sweeps.defaults import data_defaults
from usseg_ray.sweeps.earlier import is_free
from usseg_ray.sweeps.k.trials import k_trials
from usseg_ray.sweeps.request import Request
from usseg_ray.sweeps.space import Sample, SearchSpace, check_space, load_space, space_of
from usseg_ray.tracking.model import find_model_anywhere
from usseg_ray.trials.job import HERE, Placement
from usseg_ray.trials.trial import WORKERS


@dataclass(frozen=True)
class MethodPlan:
    """One method's part of a sweep.

    Attributes:
        method: Name of the method.
        config: Settings of its first trial (defaults, data set, preset, `fixed`, `--set`).
        space: What is sampled, without what `--set` decides; empty for a single run.
        samples: What each trial draws; empty where Optuna decides as it goes.
        given: Keys that a preset, `fixed` or `--set` decided.
        placement: Where its jobs run.
    """

    method: str
    config: Config[MethodConfig]
    space: SearchSpace
    samples: tuple[Sample, ...]
    given: frozenset[str] = frozenset()
    placement: Placement = HERE


def first_settings(parts: Iterable[MethodPlan]) -> dict[str, dict[str, Any]]:
    """Lists the flattened settings of each method's first trial."""
    return {part.method: flatten(part.config) for part in parts}


def plan_method(request: Request, name: str, preset: Sample, assigned: Sample) -> MethodPlan:
    """Resolves one method's settings and draws its trials.

    Args:
        request: What was asked.
        name: Name of the method.
        preset: Dotted keys and values of `--preset`.
        assigned: Those of `--set`.

    Raises:
        UserError: A key, a value or a file is wrong; says which.
    """
    method, file = methods.get(name), request.methods[name]
    space = SearchSpace({}, {}, "no search space")
    if file is not None:
        kept = request.spaces.get(name)
        space = load_space(Path(file)) if kept is None else space_of(kept, Path(file))
        if not space.space and len(request.methods) == 1 and request.num_samples > 1:
            raise UserError(
                f"{file}: `space` is empty, so all {request.num_samples} trials would be the same: "
                "add a range, or --num-samples 1."
            )
        space = space.without(assigned)
        if WORKERS in space.space:
            raise UserError(
                f"{file}: {WORKERS} cannot be sampled, all trials of a sweep run in one form: set "
                "it under `fixed` or by --workers-per-trial."
            )
    given = preset | space.fixed | assigned
    defaults = data_defaults(method, request.data, given) | preset
    check_space(space, method.Config, [defaults])
    layers = [defaults, space.fixed, {"data.name": request.data}, assigned]
    config = _with_origin(build_config(method.Config, layers), request)
    samples: tuple[Sample, ...] = ()
    if request.search == "random" or not space.space:
        samples = tuple(space.sample(request.num_samples, config.seed))
    return MethodPlan(name, config, space, samples, frozenset(given))


def _with_origin(config: Config[MethodConfig], request: Request) -> Config[MethodConfig]:
    """Finds the trained model that a method is to start from; a resumed run has that of before."""
    if not isinstance(config.method, PriMaPsConfig) or config.method.init_from is None:
        return config
    if request.origin:
        return with_values(config, request.origin)
    place = find_model_anywhere(config.method.init_from, request.tracking_uri)
    origin, weights = origin_of(place, config)
    return with_values(config, _origin_keys(origin, str(weights)))


def _origin_keys(origin: Origin, weights: str) -> dict[str, Any]:
    return {"method.init_from": weights, "method.origin": origin.model_dump(mode="json")}


def kept_origin(parts: Iterable[MethodPlan]) -> dict[str, Any]:
    """Lists what a run must remember of the trained model that a method starts from, if one does.

    Returns:
        Dotted keys and values.
    """
    for method in (part.config.method for part in parts):
        if isinstance(method, PriMaPsConfig) and method.origin and method.init_from:
            return _origin_keys(method.origin, method.init_from)
    return {}


def count_clusters(
    request: Request, part: MethodPlan, assigned: Sample, classes: int
) -> MethodPlan:
    """Makes a part one that tries every K with every seed, whatever its space.

    Args:
        request: What was asked.
        part: The method's part.
        assigned: What `--set` says.
        classes: Of the data, 0 where it names none.

    Raises:
        UserError: The search or a setting leaves no choice of K.
    """
    if request.search != "random":
        raise UserError(
            f"--question k tries every K with every seed: --search {request.search} has nothing "
            "to choose; leave it out."
        )
    seeds = range(part.config.seed, part.config.seed + request.seeds)
    space, samples = k_trials(part.space, assigned, classes, request.num_samples, seeds)
    config = part.config if classes else with_values(part.config, samples[0])
    return replace(part, config=config, space=space, samples=samples)


def check_comparable(parts: list[MethodPlan]) -> None:
    """Checks that the methods' scores may stand in one column.

    Raises:
        UserError: A setting that scores depend on differs.
    """
    first, *others = parts
    settings = flatten(first.config)
    for part in others:
        for key, value in flatten(part.config).items():
            if not is_free(key) and settings.get(key) != value:
                raise UserError(
                    f"{first.method} and {part.method} cannot be compared in one sweep: {key} is "
                    f"{settings.get(key)} and {value}. --set {key}=VALUE makes them equal."
                )


def check_batches(parts: list[MethodPlan]) -> None:
    """Checks that a step has the same images with any number of workers that a trial may have.

    Raises:
        UserError: A number of workers does not divide the batch.
    """
    for part in parts:
        resources, size = part.config.resources, part.config.train.batch_size
        counts = range(resources.fewest, resources.processes + 1)
        if len(counts) > 1 and any(size % count for count in counts):
            step = math.lcm(*counts)
            raise UserError(
                f"{part.method}: train.batch_size = {size} is kept whatever the number of workers, "
                f"so each of {counts[0]} to {counts[-1]} must divide it: "
                f"--set train.batch_size={max(1, round(size / step)) * step}"
            )
