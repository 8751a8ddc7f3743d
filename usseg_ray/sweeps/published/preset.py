"""What a preset is: the settings of one method on one published data set (`sweeps.presets`)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from usseg_ray.scoring.protocols import protocol_settings

_PROTOCOL = "stego-320"
"""What is published of methods whose settings name no protocol."""


@dataclass(frozen=True)
class Preset:
    """Settings of one method on one published data set.

    Attributes:
        method: Name of the method.
        data: Name of the published data set.
        source: Where the settings are published, and what is assumed beyond it.
        settings: Dotted keys and values.
        variant: Tells two presets of one method and data set apart.
    """

    method: str
    data: str
    source: str
    settings: Mapping[str, Any]
    variant: str = ""

    @property
    def name(self) -> str:
        """As in `--preset`: method, variant and data set."""
        return "-".join(part for part in (self.method, self.variant, self.data) if part)

    @property
    def backbone(self) -> str | None:
        """The network whose tokens it reads; `None` where its own network learns."""
        found: str | None = self.settings.get("backbone.name")
        return found

    def network(self, assigned: Mapping[str, Any]) -> str:
        """Names the network of a run, as timm does: its backbone, or its own that learns.

        Args:
            assigned: Dotted keys and values above its settings.
        """
        own = self.settings.get("method.network.name")
        return str(own or assigned.get("backbone.name", self.backbone))

    def reads(self, network: Mapping[str, Any]) -> bool:
        """Whether its settings are for a backbone, given as dotted keys and values."""
        return self.backbone == network.get("backbone.name")

    def measured(self, network: Mapping[str, Any]) -> dict[str, Any]:
        """Lists what its published numbers were measured under, beyond its settings.

        Args:
            network: Dotted keys and values of a backbone in place of its own; empty for that one.
                Image sizes that its patches do not tile become the next multiple, as authors run
                DINOv2 at 322 instead of 320.

        Returns:
            Dotted keys and values, which go above its settings.
        """
        protocol = self.settings.get("protocol", _PROTOCOL)
        found = {"protocol": protocol} | protocol_settings(protocol)
        patch = re.search(r"_patch(\d+)_", network.get("backbone.name", ""))
        if patch is None:
            return found
        step, sizes = int(patch[1]), dict[str, int]()
        for key in ("data.train_size", "data.eval_size"):
            size = found.get(key) or self.settings[key]
            sizes[key] = -(-size // step) * step
        shown = sizes["data.eval_size"]
        if shown != found.get("data.eval_size", shown):
            found["protocol"] = f"{protocol.rpartition('-')[0]}-{shown}"
        return found | sizes
