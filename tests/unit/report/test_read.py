"""Sweeps are read back from a real MLflow store."""

import pytest

from tests.reported import (
    HOSTILE,
)
from usseg_ray.core.errors import UserError
from usseg_ray.report.read import Store


def test_a_sweep_is_the_latest_or_named_by_key_or_folder(store: Store) -> None:
    assert [sweep.name for sweep in store.sweeps([])] == [HOSTILE]
    for name in ("first", "first-1a2b3c"):
        assert store.sweeps([name])[0].name == "first"
    with pytest.raises(UserError, match=r"no sweep 'absent'; the latest are .*first"):
        store.sweeps(["absent"])
