"""What a sweep varies: `search_spaces/<method>.yaml`, checked at both ends before anything starts.

A space has two keys. `fixed` maps dotted config keys to values; `space` maps them to a
distribution: `{choice: [a, b]}`, `{uniform: [low, high]}`, `{loguniform: [low, high]}` or
`{randint: [low, high]}` (both ends included).
"""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usseg_ray.core.config import MethodConfig, build_config, known_keys
from usseg_ray.core.errors import SettingError, UserError, about, unknown_key
from usseg_ray.core.sources import parse_yaml, read_text
from usseg_ray.settings import SETTINGS
from usseg_ray.settings.assigned import assigned_to, flatten_assigned

KINDS = ("choice", "uniform", "loguniform", "randint")
Sample = dict[str, Any]
"""What a trial draws: dotted keys and values; nothing leaves all settings as they are."""
_PACKAGE = Path(__file__).parents[1]
_LARGEST_WHOLE = 2**63 - 1
PLACES = (_PACKAGE.parent / "search_spaces", _PACKAGE / "search_spaces")


@dataclass(frozen=True)
class Distribution:
    """One dimension of a space.

    Attributes:
        kind: One of `KINDS`.
        values: The choices, or (low, high).
    """

    kind: str
    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that must be valid: every choice, or both ends."""
        return self.values

    def at(self, u: float) -> Any:  # noqa: ANN401
        """Returns the value at quantile `u` in [0, 1)."""
        if self.kind == "choice":
            return self.values[int(u * len(self.values))]
        low, high = self.values
        if self.kind == "randint":
            return low + int(u * (high - low + 1))
        if self.kind == "loguniform":
            return math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
        return low + u * (high - low)

    def __str__(self) -> str:
        if self.kind == "choice":
            return "one of " + ", ".join(map(str, self.values))
        return f"{self.values[0]} to {self.values[1]} ({self.kind})"


@dataclass(frozen=True)
class SearchSpace:
    """A method's sweep.

    Attributes:
        fixed: Dotted keys and values that hold for every trial.
        space: Dotted keys and what they are drawn from.
        source: Where it was read.
    """

    fixed: dict[str, Any]
    space: dict[str, Distribution]
    source: str

    def without(self, keys: Mapping[str, Any]) -> "SearchSpace":
        """Leaves out dimensions that `--set` decides."""
        space = {key: d for key, d in self.space.items() if key not in keys}
        return SearchSpace(self.fixed, space, self.source)

    @property
    def is_shipped(self) -> bool:
        """Whether it came with the package, and was not written by the user."""
        return Path(self.source).parent in PLACES

    def around(self, ends: Mapping[str, tuple[float, float] | None]) -> "SearchSpace":
        """Draws settings between other ends; those that have none are not drawn."""
        space = self.without({key: found for key, found in ends.items() if found is None}).space
        moved = {key: Distribution("uniform", found) for key, found in ends.items() if found}
        return SearchSpace(
            self.fixed, {key: moved.get(key, d) for key, d in space.items()}, self.source
        )

    def sample(self, count: int, seed: int) -> list[Sample]:
        """Draws trials that fill the space evenly; the first is the defaults, drawn from nothing.

        Args:
            count: Number of trials.
            seed: Seed of the draw.

        Returns:
            One sample per trial (Latin hypercube: every dimension's range is cut
            into `count - 1` equal parts and each part is drawn once).
        """
        from scipy.stats import qmc  # noqa: PLC0415 (slow to import: not for --help)

        drawn: list[Sample] = [{}]
        if count > 1 and self.space:
            points = qmc.LatinHypercube(len(self.space), rng=seed).random(count - 1)
            drawn += [
                {key: d.at(float(u)) for (key, d), u in zip(self.space.items(), row, strict=True)}
                for row in points
            ]
        return drawn


def find_space(method: str) -> Path:
    """Finds a method's space in the checkout or the installed package.

    Raises:
        UserError: There is none.
    """
    for folder in PLACES:
        path = folder / f"{method}.yaml"
        if path.is_file():
            return path
    raise UserError(
        f"{method}.yaml: no such search space in {PLACES[0]}; give one with --space FILE."
    )


def load_space(path: Path) -> SearchSpace:
    """Reads a search space.

    Args:
        path: A YAML file with `fixed` and `space`.

    Returns:
        The space; keys are checked by `check_space`.

    Raises:
        UserError: The file is missing or malformed; says where.
    """
    return space_of(read_tree(path), path)


def read_tree(path: Path) -> Any:  # noqa: ANN401 (whatever YAML holds)
    """Reads what a search space's file holds, unchecked.

    Raises:
        UserError: The file is missing, or not YAML.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such search space.")
    return parse_yaml(read_text(path), str(path)) or {}


def space_of(tree: Any, path: Path) -> SearchSpace:  # noqa: ANN401
    """Makes a search space of what its file holds.

    Args:
        tree: As `read_tree` gives it.
        path: Of the file, for messages.

    Raises:
        UserError: It is malformed; says where.
    """
    if not isinstance(tree, dict) or not all(isinstance(v, dict | None) for v in tree.values()):
        raise UserError(f"{path}: expected the two mappings `fixed` and `space`.")
    for key in tree:
        if key not in ("fixed", "space"):
            raise UserError(f"{path}: {unknown_key(str(key), ('fixed', 'space'))}")
    space = {str(k): _distribution(path, str(k), v) for k, v in (tree.get("space") or {}).items()}
    return SearchSpace(dict(tree.get("fixed") or {}), space, str(path))


def _distribution(path: Path, key: str, tree: Any) -> Distribution:  # noqa: ANN401
    where = f"{path}: space.{key}"
    if not isinstance(tree, dict) or len(tree) != 1:
        raise UserError(f"{where}: expected one of {{{', '.join(KINDS)}}}: [...], got {tree!r}")
    ((kind, values),) = tree.items()
    if kind not in KINDS:
        raise UserError(f"{where}: {unknown_key(str(kind), KINDS)}")
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}.{kind}: expected a list, got {values!r}")
    if kind == "choice":
        return Distribution(kind, tuple(values))
    values = [_number(v) for v in values]
    largest = _LARGEST_WHOLE if kind == "randint" else sys.float_info.max
    numbers = [v for v in values if isinstance(v, int | float) and abs(v) <= largest]
    if len(numbers) != 2 or len(values) != 2 or values[0] >= values[1]:
        raise UserError(f"{where}.{kind}: expected [low, high] with low < high, got {values}")
    if kind == "loguniform" and values[0] <= 0:
        raise UserError(f"{where}.loguniform: low must be above 0, got {values[0]}")
    if kind == "randint" and not all(isinstance(v, int) for v in values):
        raise UserError(f"{where}.randint: expected whole numbers, got {values}")
    return Distribution(kind, tuple(values))


def _number(value: Any) -> Any:  # noqa: ANN401
    """Reads `1e-4`, which YAML 1.1 takes for text, as the number it is meant to be."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def check_spaces(files: Mapping[str, str | None], assigned: Sample) -> None:
    """Refuses what is wrong of search spaces whatever lies below them.

    Args:
        files: Methods and the files of their spaces.
        assigned: What `--set` decides.

    Raises:
        UserError: As `load_space` and `check_space`.
    """
    for name, own in assigned_to([*files], flatten_assigned(assigned)).items():
        with about(name if len(files) > 1 else ""):
            check_space(load_space(Path(str(files[name]))).without(own), SETTINGS[name])


def check_space(
    space: SearchSpace,
    method: type[MethodConfig],
    layers: list[Mapping[str, Any]] | None = None,
) -> None:
    """Builds a config at every end of every range, so that a bad sweep fails in a second.

    Args:
        space: What is swept.
        method: Settings class of the method.
        layers: What lies below the space (data set defaults); where that is not known yet, only
            keys and values of the space are looked at, each by itself.

    Raises:
        UserError: A key does not exist or an end is no valid value; names file, key and value.
    """
    known = known_keys(method)
    for key in (*space.fixed, *space.space):
        if key not in known:
            raise UserError(f"{space.source}: {unknown_key(key, known)}")
    for key, value in _ends(space):
        try:
            build_config(method, [*(layers or []), space.fixed, {key: value}])
        except SettingError as error:
            if layers is not None or error.key in (key, *space.fixed):
                raise UserError(f"{space.source}: space.{key}: {error}") from None


def _ends(space: SearchSpace) -> Iterator[tuple[str, Any]]:
    for key, distribution in space.space.items():
        for value in distribution.ends:
            yield key, value


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Reads `--set path=value` options; values are YAML.

    Args:
        assignments: For example `["method.gamma=1.5", "num_clusters=12"]`.

    Returns:
        Dotted keys and values.

    Raises:
        UserError: One has no `=` or a value that is not YAML.
    """
    parsed = {}
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UserError(f"--set {text}: expected path=value, e.g. --set method.gamma=1.5")
        parsed[key.strip()] = parse_yaml(value, f"--set {key.strip()}: {value[:200]!r}")
    return parsed
