"""The floor of whole images needs the backbone, which the other floors do not."""

from usseg_ray.methods.image import ImageFloor
from usseg_ray.settings.kmeans import KMeansConfig


def test_it_needs_features() -> None:
    assert ImageFloor.needs(KMeansConfig()).features
