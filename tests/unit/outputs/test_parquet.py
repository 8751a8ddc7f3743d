from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.outputs import IGNORED, gathered, mask_of, strips
from usseg_ray.outputs.parquet import FORMAT, SHARES


def test_shares_are_of_all_pixels(tmp_path: Path) -> None:
    masks = {"a.jpg": mask_of(), "ü/b.jpg": np.full((4, 5), 3, np.uint8)}
    rows = pq.read_table(gathered(FORMAT, SHARES, masks, tmp_path)).to_pylist()
    first = {row["cluster"]: row for row in rows if row["image"] == "a.jpg"}
    mask = masks["a.jpg"]
    assert set(first) == {0, 1, 2, 3}
    for output, row in first.items():
        assert row["pixels"] == (mask == output).sum()
        assert row["share"] == pytest.approx((mask == output).mean())
        mean = strips(mask)[0].confidence[mask == output].mean()
        assert row["confidence"] == pytest.approx(float(mean), abs=1e-5)
    assert sum(row["share"] for row in first.values()) == pytest.approx((mask != IGNORED).mean())
    (second,) = [row for row in rows if row["image"] == "ü/b.jpg"]
    assert (second["name"], second["share"], second["height"]) == ("shadow", 1.0, 4)
