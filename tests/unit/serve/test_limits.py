"""What a request may cost: the limits fit each other."""

from usseg_ray.data.decode import MAX_PIXELS
from usseg_ray.serve.limits import ARRIVING, BATCH, CONNECTIONS, DEFAULT, ONGOING


def test_the_limits_fit_each_other() -> None:
    # A worker decodes while a batch is computed, and whoever waits for it has come in.
    assert BATCH < ONGOING
    assert ONGOING + DEFAULT.queue < ARRIVING < CONNECTIONS
    assert DEFAULT.pixels < MAX_PIXELS
