"""Which runs reproduce a table: a method's published settings on one backbone are a cell of it.

Light: what is asked for wrongly is refused before torch is imported.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from usseg_ray.core import cli
from usseg_ray.core.errors import UserError, unknown_name
from usseg_ray.features.presets import backbone_settings
from usseg_ray.sweeps.presets import PRESETS
from usseg_ray.sweeps.published.preset import Preset
from usseg_ray.sweeps.request import ALL_METHODS, Request

SETS = {"cocostuff27": "cocostuff27", "cityscapes27": "cityscapes", "potsdam3": "potsdam3"}
"""Published set -> what presets call it."""


@dataclass(frozen=True)
class TableCell:
    """One run of a reproduction.

    Attributes:
        preset: The published settings.
        backbone: In place of theirs, as in `--backbone`; theirs if unset.
        network: Dotted keys and values of it.
    """

    preset: Preset
    backbone: str | None = None
    network: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Names the run's folder."""
        return self.preset.name + (f"-{Path(self.backbone).stem}" if self.backbone else "")

    def request(self, data: str, seeds: int, assigned: dict[str, Any]) -> Request:
        """Asks for the run.

        Args:
            data: The prepared set.
            seeds: With which it is trained.
            assigned: Dotted keys and values above all else.
        """
        return Request(
            methods={self.preset.method: None},
            data=data,
            preset=self.preset.name,
            assigned=self.network | self.preset.measured(self.network) | assigned,
            num_samples=1,
            finalists=1,
            seeds=seeds,
        )


def table_cells(data: str, methods: str | None, backbones: str | None) -> list[TableCell]:
    """Lists the runs of a reproduction.

    Args:
        data: Name of the published set.
        methods: Names with commas between them, of methods or, as `cause-tr`, of one variant; all
            that are published for the set if unset, or `all`.
        backbones: As in `--backbone`, with commas between them; each preset's own if unset. Of the
            variants of a method that differ in their backbone, the one that is nearest is taken.

    Returns:
        The runs, those of a method together.

    Raises:
        UserError: The set, a method or a backbone does not exist, or nothing is published of a
            method for the set.
    """
    if data not in SETS:
        raise unknown_name("data set", data, SETS)
    there = [preset for preset in PRESETS if preset.data == SETS[data]]
    chosen = there if methods in (None, ALL_METHODS) else _chosen(data, there, methods)
    networks = {name: backbone_settings(name) for name in _split(backbones or "")}
    found = []
    for _, group in groupby(chosen, key=lambda preset: preset.method):
        presets = list(group)
        if not networks:
            found += [TableCell(preset) for preset in presets]
        for name, network in networks.items():
            found += [TableCell(one, name, network) for one in _nearest(presets, network)]
    named = [cell.name for cell in found]
    if doubled := {name for name in named if named.count(name) > 1}:
        raise UserError(f"{', '.join(doubled)}: two backbones have one name. Rename a file.")
    return found


def _split(names: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def _chosen(data: str, there: Iterable[Preset], methods: str) -> list[Preset]:
    """Finds the presets of methods and variants."""
    names: dict[str, list[Preset]] = {}
    for preset in there:
        names.setdefault(preset.method, []).append(preset)
        if preset.variant:
            names[f"{preset.method}-{preset.variant}"] = [preset]
    for name in _split(methods):
        if name in cli.METHODS and name not in names:
            raise UserError(
                f"{name}: no settings are published for {data}. There are those of: "
                f"{', '.join(names)}."
            )
        if name not in names:
            raise unknown_name("method", name, names)
    asked = {preset.name for name in _split(methods) for preset in names[name]}
    return [preset for preset in there if preset.name in asked]


def _nearest(presets: list[Preset], network: dict[str, Any]) -> list[Preset]:
    """Chooses among variants: those for this network, else those for what the first is for."""
    return [one for one in presets if one.reads(network)] or [
        one for one in presets if one.backbone == presets[0].backbone
    ]
