from typing import Any

import pytest

from usseg_ray.launch import assignments


def assigned(*texts: str, **short: Any) -> dict[str, Any]:
    options = dict.fromkeys(("device", "precision", "seed", "workers"))
    return assignments(list(texts), **options | short)


def test_options_that_are_not_given_assign_nothing() -> None:
    assert assigned() == {}


@pytest.mark.parametrize(("given", "value"), [("auto", "auto"), ("0", 0), ("2", 2), ("-1", "-1")])
def test_workers_per_trial_is_short_for_a_key(given: str, value: object) -> None:
    assert assigned(workers=given) == {"resources.num_workers": value}


def test_set_wins_over_the_options_that_are_short_for_it() -> None:
    found = assigned("resources.num_workers=auto", "seed=3", workers="0", seed=1, device="cpu")
    assert found == {"resources.num_workers": "auto", "seed": 3, "resources.device": "cpu"}
