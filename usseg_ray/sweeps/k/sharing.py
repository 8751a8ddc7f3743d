"""Which trials of a plan share one training, apart from Ray: a dry run counts them too."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from usseg_ray import methods
from usseg_ray.sweeps.plan import Plan
from usseg_ray.sweeps.space import Sample
from usseg_ray.trials.job import Job
from usseg_ray.trials.trained import training_key
from usseg_ray.trials.trial import number_and_seed


def sharing(plan: Plan) -> Callable[[str, Sample, int | None], Job]:
    """Makes jobs as the plan does, with the training that each has in common with others.

    A question about K may go on past its edges, so all its trainings are kept. Other sweeps keep
    those that several of their trials agree on.
    """
    common = None if plan.request.question == "k" else _common_trainings(plan)
    if common is not None and not common:
        return plan.job

    def job(method: str, sample: Sample, seed: int | None = None) -> Job:
        alone = plan.job(method, sample, seed)
        key = training_key(alone)
        return replace(alone, shared=key if common is None or key in common else "")

    return job


def _common_trainings(plan: Plan) -> frozenset[str]:
    """Names the trainings that several planned trials agree on.

    There are none where trials are stopped early, which takes the scores of their epochs.
    """
    if plan.request.scheduler != "none":
        return frozenset()
    varying = {
        part.method
        for part in plan.parts
        if methods.get(part.method).untouched(part.config.method).intersection(part.space.space)
    }
    keys = Counter(
        training_key(plan.job(method, sample, number_and_seed(name)[1]))
        for name, (method, sample) in plan.draws.items()
        if method in varying and sample is not None
    )
    return frozenset(key for key, count in keys.items() if key and count > 1)


def trained(plan: Plan) -> dict[str, int]:
    """Counts the trials of each method that train; the others take over what one of these did."""
    job, keys = sharing(plan), dict[str, list[str]]()
    for name, (method, sample) in plan.draws.items():
        found = job(method, sample or {}, number_and_seed(name)[1])
        keys.setdefault(method, []).append(found.shared)
    return {method: len({*own} - {""}) + own.count("") for method, own in keys.items()}


def trainings(plan: Plan) -> list[str]:
    """Says of each method how many trials are trained if not all are; of K, in any case."""
    counts, found = Counter(method for method, _ in plan.draws.values()), list[str]()
    for method, count in trained(plan).items():
        if count < counts[method]:
            found.append(
                f"{method}: {count} of {counts[method]} trials are trained; the others differ in "
                "what its training does not read."
            )
        elif plan.request.question == "k" and methods.get(method).stages:
            found.append(f"{method}: all {count} trials are trained; its training reads K.")
    return found
