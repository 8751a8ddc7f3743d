from typing import Any

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.features.store.rule import Decision, decide, size

COCO = 118_287
SMALL_VIT = 384 * 28 * 28 * 2
GB = 10**9


def decided(rows: int = COCO, passes: float = 20, **changes: Any) -> Decision:
    given: dict[str, Any] = {"room": 1000 * GB, "reserve": 100 * GB} | changes
    return decide("coco", rows * SMALL_VIT, passes=passes, **given)


def test_what_comes_again_and_fits_is_stored() -> None:
    found = decided()
    assert found.stored
    assert found.sentence == "coco: stored (71.2 GB; 20 passes read them)."


@pytest.mark.parametrize("passes", [0.5, 1])
def test_a_single_pass_is_not(passes: float) -> None:
    found = decided(passes=passes)
    assert not found.stored
    assert found.sentence == "coco: computed in each pass (71.2 GB; one pass reads them)."
    assert decided(passes=1.1).stored


def test_what_does_not_fit_beside_the_reserve_is_not() -> None:
    found = decided(room=150 * GB)
    assert not decided(room=150 * GB, reserve=100 * GB).stored
    assert decided(room=150 * GB, reserve=78 * GB).stored
    assert found.sentence.endswith("(71.2 GB; the store has room for 50.0 GB).")
    assert decided(room=50 * GB).sentence.endswith("the store has room for 0 B).")
    five = decided(rows=5 * COCO)
    assert five.stored
    assert "356 GB" in five.sentence
    assert not decided(rows=5 * COCO, room=450 * GB).stored


def test_the_user_has_the_last_word_where_it_can_be_kept() -> None:
    forced = decided(passes=1, room=72 * GB, mode="cache")
    assert forced.stored
    assert forced.sentence == "coco: stored (71.2 GB; as asked)."
    assert not decided(mode="recompute").stored
    with pytest.raises(UserError, match=r"coco: 71\.2 GB do not fit the 1\.0 kB"):
        decided(mode="cache", room=1000)


@pytest.mark.parametrize(
    ("number", "text"),
    [(12, "12 B"), (602_112, "602 kB"), (1e6, "1.0 MB"), (71.2e9, "71.2 GB"), (356e9, "356 GB")],
)
def test_sizes(number: float, text: str) -> None:
    assert size(number) == text
