import torch

from usseg_ray.engine.checkpoint import RunState
from usseg_ray.engine.context import PlainContext, RunContext


def test_a_plain_process_keeps_what_is_reported_and_goes_on_from_it() -> None:
    context = PlainContext(torch.device("cpu"), [])
    assert isinstance(context, RunContext)
    assert context.restore() is None
    states = [RunState(epoch, {"loss": 1.0 / epoch}, {}) for epoch in (1, 2)]
    for state in states:
        context.report(state.metrics, state, None)
    assert context.history == [{"loss": 1.0}, {"loss": 0.5}]
    assert context.restore() is states[1]


def test_a_step_costs_no_state() -> None:
    def state() -> RunState:
        raise AssertionError("a state was made")

    context = PlainContext(torch.device("cpu"), [])
    context.after_step(state)
    assert context.restore() is None
