"""What the package offers, for type checkers; it is imported when it is first asked for."""

from usseg_ray.api import load as load

__version__: str
