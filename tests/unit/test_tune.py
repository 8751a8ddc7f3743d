"""The options of `tune` become a request; what runs it has tests of its own."""

from typing import Any

import pytest
from typer.testing import CliRunner

from tests.unit.conftest import Launch
from usseg_ray.core.errors import UserError
from usseg_ray.sweeps.request import Request
from usseg_ray.tune import app


def asked(launched: list[Launch], *arguments: str) -> Request:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    request = launched[-1][0]
    assert request is not None
    return request


def test_no_argument_is_a_sweep_of_the_first_method_on_built_in_data(
    launched: list[Launch],
) -> None:
    request = asked(launched)
    assert list(request.methods) == ["acseg"]
    assert (request.data, request.num_samples, request.search) == ("synthetic", 6, "random")
    assert (request.finalists, request.seeds, request.assigned) == (3, 3, {})
    assert launched == [(request, None, None, False)]


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (("--num-samples", "2", "--finalists", "0"), {"num_samples": 2, "finalists": 0}),
        (("--time-budget", "30m"), {"time_budget_s": 1800.0}),
        (("--search", "optuna", "--scheduler", "asha"), {"search": "optuna", "scheduler": "asha"}),
        (("--register", "best"), {"register_as": "best"}),
        (("--objective", "label_free.stability"), {"objective": "label_free.stability"}),
        (("--gpu-hour-price", "2.5", "--warm-start", "all"), {"gpu_hour_price": 2.5}),
        # Finalists answer which trial is best, and not how many clusters there are.
        (("--question", "k", "--seeds", "2"), {"question": "k", "finalists": 0, "seeds": 2}),
        (
            ("--set", "train.epochs=4", "--seed", "3", "--workers-per-trial", "auto"),
            {"assigned": {"train.epochs": 4, "seed": 3, "resources.num_workers": "auto"}},
        ),
    ],
)
def test_options_change_what_they_name(
    launched: list[Launch], arguments: tuple[str, ...], changed: dict[str, Any]
) -> None:
    request = asked(launched, *arguments)
    assert {name: getattr(request, name) for name in changed} == changed


def test_several_methods_have_a_space_each(launched: list[Launch]) -> None:
    request = asked(launched, "--method", "acseg,kmeans")
    assert list(request.methods) == ["acseg", "kmeans"]
    assert all(request.methods.values())


def test_where_it_runs_is_no_part_of_what_is_asked(launched: list[Launch]) -> None:
    request = asked(launched, "--out", "runs/here", "--dry-run")
    assert launched[-1] == (request, "runs/here", None, True)


def test_who_resumes_asks_nothing_new(launched: list[Launch]) -> None:
    assert CliRunner().invoke(app, ["--resume", "earlier"]).exit_code == 0
    assert launched == [(None, None, "earlier", False)]


def test_a_time_that_is_none_is_refused(launched: list[Launch]) -> None:
    done = CliRunner().invoke(app, ["--time-budget", "soon"])
    assert isinstance(done.exception, UserError)
    assert "'soon' is no time" in str(done.exception)
    assert launched == []
