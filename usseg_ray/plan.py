"""A sweep before it starts: what was asked, resolved and checked, and the trials that follow.

Everything that can be wrong is found here, in seconds, before Ray starts or a GPU is touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from usseg_ray import __version__, methods
from usseg_ray.backbones import build_backbone
from usseg_ray.batch import FeatureSpec
from usseg_ray.config import Config, MethodConfig, Settings, UserError, build_config, flatten
from usseg_ray.data.shards import Manifest
from usseg_ray.data.sources import open_data
from usseg_ray.job import JobTemplate
from usseg_ray.loop import check_sizes
from usseg_ray.methods.base import Method
from usseg_ray.presets import data_defaults
from usseg_ray.search_space import SearchSpace, check_space, find_space, load_space

REQUEST_FILE = "sweep.yaml"


class Request(Settings):
    """What a command was asked; kept in the sweep's folder, so that `--resume` repeats it.

    Attributes are the options of `tune` and `train`; `space` is `None` for a single run.
    """

    version: str = __version__
    method: str
    data: str
    space: str | None
    assigned: dict[str, Any]
    num_samples: int = Field(ge=1)
    search: Literal["random", "optuna"]
    scheduler: Literal["none", "asha"]
    max_concurrent: int | None = Field(None, ge=1)
    tracking_uri: str | None = None
    key: str = Field("", description="Names the sweep in the tracking store.")

    def save(self, folder: Path) -> None:
        """Writes the request into the sweep's folder."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        (folder / REQUEST_FILE).write_text(text)

    @classmethod
    def load(cls, folder: Path) -> "Request":
        """Reads a sweep's request.

        Raises:
            UserError: The folder holds no sweep, or one of another version.
        """
        path = folder / REQUEST_FILE
        if not path.is_file():
            raise UserError(f"{folder} holds no sweep to resume ({REQUEST_FILE} is missing).")
        try:
            tree = yaml.safe_load(path.read_text())
        except yaml.YAMLError:
            tree = None
        if isinstance(tree, dict) and tree.get("version") != __version__:
            raise UserError(
                f"{path} was written by version {tree.get('version')}, this is {__version__}: "
                "resume it with that version, or start a new sweep."
            )
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise UserError(f"{path} is damaged: {error.errors()[0]['msg']}.") from None


@dataclass(frozen=True)
class Plan:
    """A checked sweep.

    Attributes:
        request: What was asked.
        config: Settings of the first trial (defaults, data set, `fixed`, `--set`).
        space: What is sampled; empty for a single run.
        samples: What each trial draws; empty where Optuna decides as it goes.
        base: Flattened settings below what a trial samples (defaults, data set, `fixed`).
        root: URI of the data.
        manifest: The data's manifest.
    """

    request: Request
    config: Config[MethodConfig]
    space: SearchSpace
    samples: tuple[dict[str, Any], ...]
    base: dict[str, Any]
    root: str
    manifest: Manifest

    def template(self) -> JobTemplate:
        """Gathers what the trials have in common, before a cluster is known."""
        return JobTemplate(
            method=self.request.method,
            base=self.base,
            assigned=flatten_assigned(self.request.assigned),
            num_classes=len(self.manifest.classes),
            root=self.root,
        )


def flatten_assigned(assigned: Mapping[str, Any]) -> dict[str, Any]:
    """Writes assignments of whole mappings (`backbone.timm_args={a: 1}`) as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in assigned.items():
        flat |= flatten(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
    return flat


def make_plan(request: Request, *, make_data: bool = True) -> Plan:
    """Resolves and checks a request.

    Args:
        request: What was asked.
        make_data: Whether the embedded data may be generated, or only described (`--dry-run`).

    Returns:
        The plan.

    Raises:
        UserError: A key, value, range, file, split, size or weight is wrong; says which.
    """
    method = methods.get(request.method)
    assigned = flatten_assigned(request.assigned)
    space = SearchSpace({}, {}, "no search space")
    if request.space is not None:
        space = load_space(Path(request.space)).without(assigned)
    defaults = data_defaults(method.name, request.data, space.fixed | assigned)
    check_space(space, method.Config, [defaults])
    layers: list[Mapping[str, Any]] = [defaults, space.fixed, {"data.name": request.data}]
    config = build_config(method.Config, [*layers, assigned])
    root, manifest = open_data(config.data, make=make_data)
    samples: tuple[dict[str, Any], ...] = ()
    if request.search == "random" or not space.space:
        samples = tuple(space.sample(request.num_samples, config.seed))
    base = flatten(build_config(method.Config, layers))
    plan = Plan(request, config, space, samples, base, root, manifest)
    _check_together(plan)
    return plan


def _check_together(plan: Plan) -> None:
    """Checks splits and classes, and builds backbone and method at every end of the space."""
    config, manifest = plan.config, plan.manifest
    if plan.space.space and not manifest.splits.get(config.data.selection_split):
        raise UserError(
            f"{plan.root} has no split {config.data.selection_split!r} to rank trials on, only "
            f"{', '.join(manifest.splits)}: --set data.selection_split=NAME, or run train."
        )
    if plan.space.space and not manifest.splits[config.data.selection_split].labelled:
        raise UserError(
            f"{plan.root}: split {config.data.selection_split!r} has no labels to rank trials "
            "by unsup_miou. `python -m usseg_ray.train` segments data without labels."
        )
    template = plan.template()
    if template.job({}).settings["num_clusters"] is None:
        raise UserError(
            f"{plan.root} names no classes, so the number of clusters must be given: "
            "--set num_clusters=K"
        )
    specs: dict[str, FeatureSpec] = {}
    for sample in _corner_samples(plan):
        try:
            _build(methods.get(plan.request.method), template.job(sample).settings, specs)
        except UserError as error:
            if not sample:
                raise
            raise UserError(f"{plan.space.source}: with {sample}: {error}") from None


def _build(method: type[Method], settings: dict[str, Any], specs: dict[str, FeatureSpec]) -> None:
    """Builds a trial's method once to see that it can be; `specs` keeps backbones' facts."""
    config = build_config(method.Config, [settings])
    backbone = config.backbone.model_dump_json()
    if backbone not in specs:
        specs[backbone] = build_backbone(config.backbone).spec
    check_sizes(config.data, specs[backbone].patch_size)
    method(config.method, specs[backbone], settings["num_clusters"], config.seed)


def _corner_samples(plan: Plan) -> list[dict[str, Any]]:
    corners: list[dict[str, Any]] = [{}]
    for key, distribution in plan.space.space.items():
        corners += [{key: value} for value in distribution.ends]
    return corners


def default_space(method: str) -> str:
    """Returns the path of a method's own search space."""
    return str(find_space(methods.get(method).name))
