from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.encoded import encode, noise
from usseg_ray.bench.io import _decode_by_pillow, _walk, planning_bars
from usseg_ray.core.errors import UserError
from usseg_ray.data.decode import decode_image
from usseg_ray.data.plans import training_plan
from usseg_ray.data.reading import stream_here


def test_both_decoders_give_the_same_pixels() -> None:
    data = encode(noise(), "PNG")
    assert np.array_equal(_decode_by_pillow(data), decode_image(data))


def test_a_stream_of_few_blocks_is_not_timed(tmp_path: Path) -> None:
    manifest = tiny.write(tmp_path)
    rows = tiny.SPLITS["train"]
    plan = training_plan(manifest, "train", seed=0, epoch=0, rows=rows, rank=0, world=1)
    with pytest.raises(UserError, match=f"{rows} images: too few to time a stream"):
        _walk(stream_here, str(tmp_path), plan)


def test_plans_are_timed_on_a_split_that_has_no_files() -> None:
    dealt, partner = planning_bars(25_600)
    assert (dealt.what, partner.what) == ("plan of 25,600 rows", "first partners of 25,600 rows")
    assert dealt.value > partner.value > 0
    assert dealt.passed
    assert partner.passed
