"""What a command was asked, from its options to the file that `--resume` reads.

It stands before `plan`, which resolves and checks it: here names become methods and files, nothing
is built yet. The commands read their options here, so nothing heavy is imported.
"""

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from pydantic import Field, ValidationError

from usseg_ray import __version__
from usseg_ray.core import cli
from usseg_ray.core.calibration import Calibration, Effort
from usseg_ray.core.config import Settings
from usseg_ray.core.errors import HIDDEN, UserError, carries_secret, redacted, unknown_name
from usseg_ray.core.files import is_uri, write_whole
from usseg_ray.core.records import DamagedError, first_fault
from usseg_ray.features.presets import PRESETS as BACKBONES
from usseg_ray.features.presets import backbone_settings
from usseg_ray.settings import FLOORS, SETTINGS
from usseg_ray.sweeps.presets import find_preset
from usseg_ray.sweeps.space import find_space, parse_assignments, read_tree

REQUEST_FILE = "sweep.yaml"
_SUM = "# sha256: "
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
DEFAULT_METHOD = "acseg"
FITTED = ("kmeans", "acseg")
"""What `fit` compares where no method is named: nothing learnt, and the quickest that learns."""
ALL_METHODS = "all"
UNITS = {"s": 1, "m": 60, "h": 3600}

Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.yaml",
        help=f"One of: {', '.join(preset.name for preset in BACKBONES)}; or a file beside weights "
        "of your own (docs/features.md). Above --preset and `fixed` of a space, below --set.",
        show_default="dino_s16; textons on built-in data",
    ),
]

Question = Literal["k"]
Calibrate = Literal["on", "off"]
Search = Literal["random", "optuna"]
Scheduler = Literal["none", "asha"]


class Request(Settings):
    """What a command was asked; kept in the sweep's folder, so that `--resume` repeats it.

    Attributes are what the options of `tune` and `train` give (`option` makes these of them);
    `methods` maps each method to the file of its search space, or to `None` for a single run.
    """

    version: str = __version__
    methods: dict[str, str | None] = Field(min_length=1)
    spaces: dict[str, dict[str, Any]] = Field(
        default={},
        description="What the files of `methods` held when the run began: a run is gone on with as "
        "it began, also where they have changed since or are missing.",
    )
    data: str = Field(
        "synthetic",
        description="A prepared set: a folder or URI, or a name under $USSEG_DATA; or a folder of "
        "images, which is prepared first. `synthetic` is built in and needs nothing.",
    )
    preset: str | None = Field(
        None,
        description="A method's published settings for a data set, e.g. acseg-voc2012; below "
        "--space and --set.",
    )
    assigned: dict[str, Any]
    calibrate: Calibrate = Field(
        "on",
        description="on: fit thresholds, rates and schedules to a prepared set, without labels; "
        "off: the published ones, as a preset and the built-in data always have them.",
    )
    effort: Effort = Field(
        "normal",
        description="How long methods learn: quick, normal, or full as published. It follows from "
        "the number of images, never from a clock.",
    )
    calibration: Calibration | None = Field(
        None,
        description="What was calibrated when the run began: it is gone on with as it began.",
    )
    origin: dict[str, Any] = Field(
        default={},
        description="What `method.init_from` was when the run began, as dotted keys and values.",
    )
    num_samples: int = Field(
        6, ge=1, description="Trials of each method; its first takes the defaults."
    )
    search: Search = Field(
        "random",
        description="random fills the space evenly and repeats exactly; optuna is TPE, a model for "
        "each method.",
    )
    scheduler: Scheduler = Field(
        "none",
        description="asha stops weak trials early, at equal epochs whatever their method; which "
        "ones depends on timing.",
    )
    question: Question | None = Field(
        None,
        description="k: how many clusters? Tries --num-samples values of K with --seeds seeds "
        "each, and answers with a curve, a K and pictures.",
    )
    objective: str = Field(
        "auto",
        description="What trials are ranked by: unsup_miou, label_free.view_information or another "
        "criterion without labels (docs/choosing_k.md); auto: unsup_miou if there are labels.",
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="Trials at a time; as many as fit if unset."
    )
    time_budget_s: float | None = Field(
        None, gt=0, description="For the trials, such as 90s, 30m or 2h; finals follow."
    )
    finalists: int = Field(
        3, ge=0, description="Best trials to train with more seeds and to score on the test."
    )
    seeds: int = Field(3, ge=1, description="With which each finalist is trained.")
    gpu_hour_price: float | None = Field(
        None, ge=0, description="Price of a GPU for an hour, to show what the sweep costs."
    )
    warm_start: str | None = Field(
        None,
        description="Earlier sweeps on the same data that optuna learns from; all: those in "
        "./runs.",
    )
    tracking_uri: str | None = None
    storage: str = Field("", description="URI at which the run is kept; empty for its folder.")
    register_as: str | None = Field(
        None,
        description="Register the best trial's model in MLflow, as the champion of that name.",
    )
    key: str = Field("", description="Names the sweep in the tracking store.")

    def begun(
        self, key: str, calibration: Calibration | None = None, origin: dict[str, Any] | None = None
    ) -> "Request":
        """Completes a request whose plan was made, and that is to be kept.

        Args:
            key: Names the run in the tracking store.
            calibration: What was calibrated, if anything.
            origin: What a method starts from, if any does.
        """
        files = {name: Path(file) for name, file in self.methods.items() if file is not None}
        spaces = {name: read_tree(file) for name, file in files.items()}
        found = {"key": key, "spaces": spaces, "calibration": calibration, "origin": origin or {}}
        begun = self.model_copy(update=found)
        begun.check_secrets()
        return begun

    def check_secrets(self) -> None:
        """Refuses what must be kept with a secret in it.

        Raises:
            UserError: The data, the run's place, `--set` or a search space has a password or a key.
        """
        kept = self.model_dump(mode="json", exclude={"tracking_uri", "calibration"})
        for place, text in _texts(kept):
            if carries_secret(text):
                first, _, rest = place.partition(".")
                raise UserError(
                    f"{_OPTIONS.get(first, first)} {rest and f'{rest}='}{text}: an address with a "
                    "secret in it would be written into the run's files. Give it without, and the "
                    "secret through the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                    "AWS_ENDPOINT_URL)."
                )

    def save(self, folder: Path) -> None:
        """Writes the request into the sweep's folder; the tracking store's password is left out."""
        kept = self.model_dump(mode="json")
        if self.tracking_uri is not None:
            kept["tracking_uri"] = redacted(self.tracking_uri)
        text = yaml.safe_dump(kept, sort_keys=False)
        # At the head: whatever is cut off, it is missed.
        write_whole(folder / REQUEST_FILE, f"{_SUM}{sha256(text.encode()).hexdigest()}\n{text}")

    def with_password(self) -> "Request":
        """Completes the tracking store's address, where its password was left out.

        Raises:
            UserError: The environment's is another.
        """
        kept = self.tracking_uri
        if kept is None or HIDDEN not in kept:
            return self
        whole = os.environ.get(TRACKING_VARIABLE, "")
        if redacted(whole) != kept:
            raise UserError(
                f"{REQUEST_FILE} keeps no password of {kept}: set {TRACKING_VARIABLE} to the whole "
                "address, and run this again."
            )
        return self.model_copy(update={"tracking_uri": whole})

    @classmethod
    def load(cls, folder: Path) -> "Request":
        """Reads a sweep's request.

        Raises:
            UserError: The folder holds no sweep, or one of another version.
        """
        path = folder / REQUEST_FILE
        if not path.is_file():
            raise UserError(f"{folder} holds no sweep to resume ({REQUEST_FILE} is missing).")
        content = path.read_bytes()
        head, _, text = content.partition(b"\n")
        noted = head.removeprefix(_SUM.encode())
        cure = "Start a new sweep; the trials of this one stay in their folders."
        if noted != head and noted.strip() != sha256(text).hexdigest().encode():
            raise DamagedError(f"{path} is damaged: its sha256 is not what it says. {cure}")
        try:
            tree = yaml.safe_load(content)
        except (yaml.YAMLError, ValueError):
            tree = None
        written = tree.get("version", __version__) if isinstance(tree, dict) else __version__
        if written != __version__:
            raise UserError(
                f"{path} was written by version {written}, this is {__version__}: "
                "resume it with that version, or start a new sweep."
            )
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise DamagedError(f"{path} is damaged: {first_fault(error)}. {cure}") from None


_OPTIONS = {"data": "--data", "storage": "--out", "assigned": "--set", "spaces": "--space"}


def _texts(kept: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Yields every text in a tree, with the keys that lead to it."""
    if isinstance(kept, str):
        yield place, kept
    elif isinstance(kept, dict):
        for key, value in kept.items():
            yield from _texts(value, f"{place}.{key}" if place else key)
    elif isinstance(kept, list):
        for value in kept:
            yield from _texts(value, place)


def option(name: str, metavar: str | None = None) -> Any:  # noqa: ANN401 (as typer.Option)
    """Makes the option of a field: default, lower bound and help are the field's.

    Args:
        name: Of the field; the option is named by the parameter that it stands at.
        metavar: What stands for a value in the help; its type if unset.
    """
    field = Request.model_fields[name]
    bounds = (bound.ge for bound in field.metadata if hasattr(bound, "ge"))
    low = next(bounds, None)
    return typer.Option(field.default, metavar=metavar, help=field.description, min=low)


def assignments(
    texts: list[str],
    *,
    backbone: str | None,
    device: str | None,
    precision: str | None,
    seed: int | None,
    workers: str | None,
) -> dict[str, Any]:
    """Joins `--set` with the options that are short for some; it wins over them."""
    short = {
        "resources.device": device,
        "resources.precision": precision,
        "resources.num_workers": int(workers) if workers and workers.isdecimal() else workers,
        "seed": seed,
    }
    given = {key: v for key, v in short.items() if v is not None}
    network = {} if backbone is None else backbone_settings(backbone)
    return network | given | parse_assignments(texts)


def seconds(text: str) -> float:
    """Reads a time such as `90s`, `30m` or `2h`.

    Raises:
        UserError: It is none.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.replace(".", "", 1).isdecimal() or not float(number):
        raise UserError(f"{text!r} is no time: a number above 0 with s, m or h, such as 30m.")
    return float(number) * UNITS[unit]


def check_places(data: str, resume: str | None) -> None:
    """Refuses a folder or name that is not there, before anything heavy is imported.

    Args:
        data: `--data`, which may be a name under `$USSEG_DATA`; what lies at a URI is asked later.
        resume: `--resume`, beside which `data` stands for nothing.

    Raises:
        UserError: There is no such set, folder or run.
    """
    if resume is not None:
        from usseg_ray.trials.trial import find_run  # noqa: PLC0415 (numpy: not for --help)

        if not is_uri(resume):
            find_run(resume)
        return
    built_in = data == Request.model_fields["data"].default
    if not (built_in or is_uri(data) or Path(data).expanduser().exists()):
        from usseg_ray.data.library import find_prepared  # noqa: PLC0415 (scipy: not for --help)

        find_prepared(data)


def kept_at(sweep: Path) -> str:
    """Says at which URI a sweep's folder is kept; empty for the folder alone, or for no sweep."""
    return Request.load(sweep).storage if (sweep / REQUEST_FILE).is_file() else ""


def named_methods(names: str | None, preset: str | None) -> list[str]:
    """Reads `--method`.

    Args:
        names: Names with commas between them, or `all`: every method but the floors, which stand
            beside every sweep as it is.
        preset: `--preset`, which names its method where `names` is unset.

    Returns:
        Names of existing methods, each once, in the order given.

    Raises:
        UserError: A method or the preset does not exist.
    """
    default = find_preset(preset).method if preset else DEFAULT_METHOD
    if names is None:
        return [default]
    if names == ALL_METHODS:
        return [name for name in SETTINGS if name not in FLOORS]
    asked = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in asked:
        if name not in cli.METHODS:
            raise unknown_name("method", name, cli.METHODS)
    return asked


def named_method(names: str | None, preset: str | None) -> str:
    """Reads `--method` where only one can run.

    Raises:
        UserError: As `named_methods`, or there are several.
    """
    (first, *others) = named_methods(names, preset)
    if others:
        raise UserError(
            f"--method {names}: one run has one method; "
            f"`python -m usseg_ray.tune --method {names}` compares them."
        )
    return first


def with_spaces(names: list[str], given: str | None) -> dict[str, str | None]:
    """Gives every method its search space.

    Args:
        names: Methods.
        given: `--space`: a file in place of the own space of one method, or a folder of
            METHOD.yaml files; what it lacks is taken from search_spaces/.

    Returns:
        Method -> path.

    Raises:
        UserError: A file is given for several methods, a folder has none of their spaces, or a
            method has no space.
    """
    if given is None:
        return {name: str(find_space(name)) for name in names}
    if Path(given).is_dir():
        found = {name: Path(given) / f"{name}.yaml" for name in names}
        if not any(path.is_file() for path in found.values()):
            raise UserError(f"--space {given}: the folder has no {names[0]}.yaml.")
        return {name: str(p if p.is_file() else find_space(name)) for name, p in found.items()}
    if len(names) > 1:
        raise UserError(
            f"--space {given} is for one method, not for {', '.join(names)}: give a folder with a "
            "METHOD.yaml for each."
        )
    return {names[0]: given}
