import pickle

import numpy as np

from usseg_ray.cluster.worker_pool import Work, _Actor
from usseg_ray.core.errors import UserError


def batch(*items: object) -> dict[str, np.ndarray]:
    return {"item": np.array([pickle.dumps(item) for item in items], object)}


def results(actor: "_Actor[int, int]", *items: int) -> list[object]:
    return [pickle.loads(one) for one in actor(batch(*items))["result"]]


def test_a_worker_is_made_once_with_the_first_items() -> None:
    made: list[int] = []

    def make() -> Work[int, int]:
        made.append(1)
        return lambda items: [2 * item for item in items]

    actor: _Actor[int, int] = _Actor(make)
    assert made == []
    assert results(actor, 1, 2) == [2, 4]
    assert results(actor, 3) == [6]
    assert made == [1]


def test_what_a_worker_says_to_the_user_is_a_result() -> None:
    def make() -> Work[int, int]:
        raise UserError("no such model")

    (found,) = results(_Actor(make), 1, 2)
    assert isinstance(found, UserError)
    assert str(found) == "no such model"
