"""What the tests of plans share: requests that are small, and the plans that follow."""

from typing import Any

from tests import tiny
from usseg_ray.sweeps.method_plan import MethodPlan
from usseg_ray.sweeps.plan import Plan, make_plan
from usseg_ray.sweeps.request import Request, with_spaces
from usseg_ray.trials.job import Job


def request(**changed: Any) -> Request:
    names = changed.pop("names", ["acseg"])
    space = changed.pop("space", "own")
    files = dict.fromkeys(names) if space is None else None
    asked: dict[str, Any] = {
        "methods": files or with_spaces(names, None if space == "own" else space),
        "data": "synthetic",
        "assigned": {},
        "calibrate": "off",
        "num_samples": 6,
        "search": "random",
        "scheduler": "none",
    }
    return Request.model_validate(asked | changed)


def plan(**changed: Any) -> Plan:
    return make_plan(request(**changed), make_data=False)


def only(made: Plan) -> MethodPlan:
    (part,) = made.parts
    return part


def jobs(made: Plan) -> dict[str, Job]:
    """Makes the jobs of the trials of which it is known what they draw, by name."""
    return {
        name: made.job(method, sample)
        for name, (method, sample) in made.draws.items()
        if sample is not None
    }


TINY_SETTINGS = {k: v for k, v in (tiny.SETTINGS | tiny.ACSEG).items() if k != "data.name"}
UNSET_K = {k: v for k, v in TINY_SETTINGS.items() if k != "num_clusters"}


BOTH = ["acseg", "kmeans"]
