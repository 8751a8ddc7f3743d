"""What each method can be set to, apart from its code: a wrong setting is refused without torch."""

from collections.abc import Mapping

from usseg_ray.core.config import MethodConfig
from usseg_ray.settings.acseg import ACSegConfig
from usseg_ray.settings.cause import CAUSEConfig
from usseg_ray.settings.colour import ColourConfig
from usseg_ray.settings.equss import EQUSSConfig
from usseg_ray.settings.hp import HPConfig
from usseg_ray.settings.kmeans import KMeansConfig
from usseg_ray.settings.picie import PiCIEConfig
from usseg_ray.settings.position import PatchConfig
from usseg_ray.settings.ppap import PPAPConfig
from usseg_ray.settings.primaps import PriMaPsConfig
from usseg_ray.settings.smooseg import SmooSegConfig
from usseg_ray.settings.stego import STEGOConfig

SETTINGS: Mapping[str, type[MethodConfig]] = {
    "picie": PiCIEConfig,
    "stego": STEGOConfig,
    "hp": HPConfig,
    "cause": CAUSEConfig,
    "acseg": ACSegConfig,
    "smooseg": SmooSegConfig,
    "primaps": PriMaPsConfig,
    "equss": EQUSSConfig,
    "ppap": PPAPConfig,
    "kmeans": KMeansConfig,
    "position": PatchConfig,
    "colour": ColourConfig,
    "image": KMeansConfig,
}
"""Name of each method -> its settings, in the order of `methods.METHODS`."""

BLIND = ("position", "colour")
"""Floors that know no feature."""

IMAGE = "image"

FLOORS = (*BLIND, IMAGE)
