"""Every method that the commands know; a new one is a line in `METHODS`."""

from usseg_ray.core.errors import unknown_name
from usseg_ray.methods.acseg import ACSeg
from usseg_ray.methods.base import Method
from usseg_ray.methods.cause import CAUSE
from usseg_ray.methods.colour import ColourFloor
from usseg_ray.methods.equss import EQUSS
from usseg_ray.methods.hp import HP
from usseg_ray.methods.image import ImageFloor
from usseg_ray.methods.kmeans import KMeans
from usseg_ray.methods.picie import PiCIE
from usseg_ray.methods.position import PositionFloor
from usseg_ray.methods.ppap import PPAP
from usseg_ray.methods.primaps import PriMaPs
from usseg_ray.methods.smooseg import SmooSeg
from usseg_ray.methods.stego import STEGO

METHODS: tuple[type[Method], ...] = (
    PiCIE,
    STEGO,
    HP,
    CAUSE,
    ACSeg,
    SmooSeg,
    PriMaPs,
    EQUSS,
    PPAP,
    KMeans,
    PositionFloor,
    ColourFloor,
    ImageFloor,
)


def get(name: str) -> type[Method]:
    """Finds a method by its name.

    Args:
        name: As in `--method`.

    Returns:
        The method's class.

    Raises:
        UserError: No method has that name; the error says the nearest and all that exist.
    """
    methods = {method.name: method for method in METHODS}
    if name in methods:
        return methods[name]
    raise unknown_name("method", name, methods)
