"""What a request may cost: the limits fit each other."""

import io
import math
import time

from PIL import Image

from usseg_ray.data.containers import MAX_SCANNED
from usseg_ray.data.decode import MAX_PIXELS, check_header, decode_image
from usseg_ray.serve.limits import ARRIVING, BATCH, CONNECTIONS, DEFAULT, ONGOING


def test_the_limits_fit_each_other() -> None:
    # A worker decodes while a batch is computed, and whoever waits for it has come in.
    assert BATCH < ONGOING
    assert ONGOING + DEFAULT.queue < ARRIVING < CONNECTIONS
    assert DEFAULT.pixels < MAX_PIXELS


def test_what_passes_the_check_is_decoded_in_seconds() -> None:
    side = math.isqrt(DEFAULT.pixels)
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (10, 20, 200)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    # As many scans as are let through, each of them a pass over all pixels.
    scan = data[data.rindex(b"\xff\xda") : -2]
    more = MAX_SCANNED // side**2 - data.count(b"\xff\xda")
    bomb = data[:-2] + more * scan + data[-2:]
    check_header(bomb, DEFAULT.pixels)
    start = time.process_time()
    assert decode_image(bomb).shape == (side, side, 3)
    assert time.process_time() - start < 15
