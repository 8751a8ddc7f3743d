from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.features import everything, obtain, wanted
from usseg_ray.core.views import Crops
from usseg_ray.features.store import entry as feature_entry
from usseg_ray.features.store.entry import FeatureEntry


@pytest.fixture
def entry(tmp_path: Path) -> FeatureEntry:
    """Features of the tiny set's 14 training images, in five shards."""
    tiny.write(tmp_path / "set")
    return obtain(tmp_path / "store", wanted(tmp_path / "set"))


def test_rows_come_back_in_any_order(entry: FeatureEntry) -> None:
    rows = np.array([13, 0, 1, 2, 3, 4, 9, 9, 5])
    whole = everything(entry)
    assert whole.shape == (14, *entry.manifest.shape("tokens"))
    assert len(np.unique(whole.reshape(14, -1), axis=0)) == 14
    assert np.array_equal(entry.read("tokens", rows).numpy(), whole[rows])
    assert entry.ids(rows) == tuple(f"train-{row:02d}" for row in rows)
    assert entry.read("tokens", np.array([], int)).shape == (0, *entry.manifest.shape("tokens"))


def test_a_batch_that_is_there_is_filled(entry: FeatureEntry) -> None:
    rows = np.array([4, 5, 6])
    out = torch.full((3, *entry.manifest.shape("tokens")), torch.nan)
    assert entry.read("tokens", rows, out) is out
    assert torch.equal(out, entry.read("tokens", rows).float())
    with pytest.raises(ValueError, match="rows are"):
        entry.read("tokens", rows, out[:2])


@pytest.mark.parametrize("row", [-1, 14])
def test_a_row_that_does_not_exist_is_told(entry: FeatureEntry, row: int) -> None:
    with pytest.raises(IndexError, match="14 rows"):
        entry.read("tokens", np.array([row]))


def test_more_shards_than_may_be_open(entry: FeatureEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_entry, "MAX_OPEN", 2)
    rows = np.random.default_rng(0).permutation(14)
    assert np.array_equal(entry.read("tokens", rows).numpy(), everything(entry)[rows])
    assert len(entry._open) == 2


def test_rows_of_crops_are_numbered_by_image_first(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    entry = obtain(tmp_path / "store", wanted(tmp_path / "set", crops=Crops("five")))
    rows = entry.rows(np.array([0, 2]), np.array([1, 4]))
    assert rows.tolist() == [1, 14]
    assert entry.ids(rows) == ("train-00", "train-02")
    with pytest.raises(IndexError, match="5 crops"):
        entry.rows(np.array([0]), 5)


def test_images_are_found_by_name(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    entry = obtain(tmp_path / "store", wanted(tmp_path / "set", crops=Crops("five")))
    numbers = entry.images(["train-13", "train-00", "train-07"])
    assert numbers.tolist() == [13, 0, 7]
    assert entry.ids(entry.rows(numbers, 3)) == ("train-13", "train-00", "train-07")
    with pytest.raises(KeyError, match="val-00"):
        entry.images(["val-00"])
