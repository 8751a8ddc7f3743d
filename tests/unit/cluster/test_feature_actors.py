from pathlib import Path

import numpy as np

from tests import tiny
from tests.features import BACKBONE, TEXTONS
from usseg_ray.cluster.feature_actors import _computing
from usseg_ray.core.views import Frame
from usseg_ray.data.reading import read_piece
from usseg_ray.features.store.extraction import want


def test_an_actor_computes_the_rows_of_all_blocks_in_order(tmp_path: Path) -> None:
    manifest = tiny.write(tmp_path)
    wanted = want(str(tmp_path), manifest, "train", TEXTONS, BACKBONE, frame=Frame(tiny.SIDE))
    pieces = wanted.pieces(range(wanted.entry.num_shards))
    showing = wanted.entry.recipe.showing
    blocks = [read_piece(str(tmp_path), piece, showing) for piece in pieces]
    assert len(blocks) > 1
    compute = _computing(wanted, "cpu", 1)
    found = compute(blocks)
    assert found["id"].tolist() == [name for block in blocks for name in block["id"]]
    alone = [compute([block])["tokens"] for block in blocks]
    np.testing.assert_array_equal(found["tokens"], np.concatenate(alone))
