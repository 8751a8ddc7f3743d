"""Which trial's model a run without finalists keeps; that it does: integration/test_sweep.py."""

from usseg_ray.sweeps.models import best_of
from usseg_ray.trials.trial import Status, Trial


def trial(index: int, score: float | None, status: Status, *, state: bool = True) -> Trial:
    metrics = {} if score is None else {"label_free.view_information": score}
    place = "somewhere" if state else None
    objective = "label_free.view_information"
    return Trial(index, "acseg", {}, {}, 3, status, metrics, checkpoint=place, objective=objective)


def test_the_first_that_left_a_state_and_did_not_fail_is_kept() -> None:
    trials = [
        trial(0, 0.3, "FINISHED"),
        trial(1, 0.9, "FAILED"),
        trial(2, 0.8, "FINISHED", state=False),
        trial(3, 0.5, "KILLED"),
        trial(4, None, "FINISHED"),
    ]
    assert best_of(trials) is trials[3]
    # A run of one trial need not have what trials are ranked by.
    assert best_of(trials[4:]) is trials[4]
    assert best_of(trials[1:3]) is None
