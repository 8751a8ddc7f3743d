"""What the package offers, for type checkers; it is imported when it is first asked for."""

from usseg_ray.api import export as export
from usseg_ray.api import fit as fit
from usseg_ray.api import load as load
from usseg_ray.api import prepare as prepare
from usseg_ray.api import sweep as sweep

__version__: str
