"""What the clusters of a model are called, coloured, merged into and left out.

People write it as `names.yaml`, a line a cluster; a model keeps it in its description.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import yaml
from jaxtyping import Int64, UInt8
from pydantic import Field, ValidationError

from usseg_ray.core.config import Settings
from usseg_ray.core.errors import UserError
from usseg_ray.core.records import first_fault
from usseg_ray.core.sources import parse_yaml, read_text
from usseg_ray.data.manifest import Palette
from usseg_ray.pictures.palettes import colour_for

IGNORED = 255
"""What a label map has where its cluster is ignored, if one byte holds all K."""

_IGNORED_OF_MANY = 65535


def unnamed(cluster: int) -> str:
    """Calls a cluster by its number, as long as nobody has named it."""
    return f"cluster {cluster}"


class Name(Settings):
    """What one cluster is called and what becomes of it.

    Attributes:
        name: Anything; need not differ from that of another cluster.
        colour: As `#rrggbb`.
        merge_into: The cluster that it is a part of.
        ignore: Whether its pixels are left out of label maps.
        split: 2 where it is to be made two clusters (`outputs.gallery.split`); no model keeps that.
    """

    name: str = Field(min_length=1, max_length=200)
    colour: str = Field(pattern=r"^#[0-9a-fA-F]{6}$")
    merge_into: int | None = Field(None, ge=0)
    ignore: bool = False
    split: Literal[2] | None = Field(None, exclude=True)


@dataclass(frozen=True)
class Names:
    """The names of all K clusters, in their order.

    Attributes:
        clusters: A name a cluster.

    Raises:
        UserError: A cluster is merged into one that there is not, or round a loop.
    """

    clusters: tuple[Name, ...]

    def __post_init__(self) -> None:
        for cluster in range(len(self.clusters)):
            self._final(cluster)

    @classmethod
    def default(cls, k: int, palette: Palette | None = None) -> Self:
        """Names clusters by their numbers, in colours that stay apart.

        Args:
            k: How many.
            palette: RGB of each; chosen if unset.
        """
        called = [unnamed(cluster) for cluster in range(k)]
        colours = colour_for(called, palette)
        return cls(
            tuple(
                Name(name=name, colour="#" + bytes(colour.tolist()).hex())
                for name, colour in zip(called, colours, strict=True)
            )
        )

    @classmethod
    def read(cls, path: Path, known: "Names | None" = None) -> Self:
        """Reads a `names.yaml`.

        Args:
            path: The file.
            known: What clusters and keys have that the file does not name; without it, the file
                names every cluster, from 0, and its colour.

        Raises:
            UserError: It is missing or wrong; says where.
        """
        try:
            tree = parse_yaml(read_text(path), str(path))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file.") from None
        return cls.of_tree(tree, str(path), known)

    @classmethod
    def of_tree(cls, tree: object, where: str, known: "Names | None" = None) -> Self:
        """Checks what `tree` made, or a person wrote in its place.

        Args:
            tree: A mapping from a cluster's number to its keys.
            where: Where it stands, for messages.
            known: As of `read`.

        Raises:
            UserError: A cluster, a key or a value is wrong.
        """
        if not isinstance(tree, Mapping) or not tree:
            raise UserError(f'{where}: expected lines such as 0: {{name: road, colour: "#804080"}}')
        known_tree = known.tree() if known else {}
        count = len(known_tree) or len(tree)
        for key in tree:
            if not isinstance(key, int) or not 0 <= key < count:
                raise UserError(f"{where}: cluster {key!r}: they are numbered 0 to {count - 1}.")
        named = [_name(k, tree.get(k), known_tree.get(k), where) for k in range(count)]
        return cls(tuple(named))

    def tree(self) -> dict[int, dict[str, Any]]:
        """Returns plain values: a cluster's number, and its keys."""
        return {cluster: name.model_dump() for cluster, name in enumerate(self.clusters)}

    def text(self) -> str:
        """Writes them as a `names.yaml`."""
        dumped: str = yaml.safe_dump(self.tree(), sort_keys=False, allow_unicode=True, width=1000)
        return dumped

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def final(self) -> Int64[np.ndarray, " K"]:
        """What every cluster is in a label map: itself, what it is merged into, or `ignored`."""
        return np.array([self._final(cluster) for cluster in range(len(self))], np.int64)

    @property
    def groups(self) -> Int64[np.ndarray, " K"]:
        """The cluster that the probability of every cluster counts for: what it is merged into."""
        parts = enumerate(self.clusters)
        return np.array([k if name.ignore else self._end(k) for k, name in parts], np.int64)

    @property
    def ignored(self) -> int:
        """What label maps have where a cluster is ignored."""
        return IGNORED if len(self) <= IGNORED else _IGNORED_OF_MANY

    @property
    def outputs(self) -> tuple[int, ...]:
        """The values that label maps have, without `ignored`, in order."""
        return tuple(sorted({int(value) for value in self.final} - {self.ignored}))

    @property
    def palette(self) -> UInt8[np.ndarray, "N 3"]:
        """RGB by value, 256 or K of them; black where there is no cluster."""
        colours = np.zeros((max(IGNORED + 1, len(self)), 3), np.uint8)
        for cluster, name in enumerate(self.clusters):
            colours[cluster] = list(bytes.fromhex(name.colour[1:]))
        return colours

    def apply(self, mask: Int64[np.ndarray, "*size"]) -> Int64[np.ndarray, "*size"]:
        """Makes a label map of clusters one of outputs.

        Args:
            mask: Clusters, from 0; any shape.

        Returns:
            The same shape; merged clusters have the number of the one that they go into, ignored
            ones `ignored`.
        """
        return np.asarray(self.final[mask])

    def _final(self, cluster: int) -> int:
        end = self._end(cluster)
        return self.ignored if self.clusters[end].ignore or self.clusters[cluster].ignore else end

    def _end(self, cluster: int) -> int:
        """Follows merges to their end."""
        seen, first = [cluster], cluster
        while (onward := self.clusters[cluster].merge_into) is not None:
            if onward >= len(self.clusters):
                raise UserError(
                    f"Cluster {cluster} is to be merged into {onward}: they are numbered 0 to "
                    f"{len(self.clusters) - 1}."
                )
            if onward in seen:
                raise UserError(f"Cluster {first} is merged round a loop: {[*seen, onward]}.")
            seen.append(onward)
            cluster = onward
        return cluster


def _name(cluster: int, given: object, known: Mapping[str, Any] | None, where: str) -> Name:
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"{where}: {cluster}: expected keys such as {{name: road}}.")
    if given is None and known is None:
        raise UserError(f"{where}: cluster {cluster} is missing.")
    try:
        return Name.model_validate({**(known or {}), **(given or {})}, strict=True)
    except ValidationError as error:
        hint = ' Colours are written in quotes, "#804080".' if "colour" in str(error) else ""
        raise UserError(f"{where}: {cluster}: {first_fault(error)}.{hint}") from None
