"""The options of `tune`: types of the request's fields, and every one reaches its field."""

import inspect
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.models import OptionInfo
from typer.testing import CliRunner

from tests.places import make_places
from usseg_ray.sweeps.request import Request, with_spaces
from usseg_ray.tune import app, tune

OPTIONS = (
    "--method kmeans,acseg --data a-set --num-samples 4 --question k --search optuna "
    "--scheduler asha --objective label_free.modularity --warm-start all --max-concurrent 2 "
    "--time-budget 2m --finalists 5 --seeds 7 --gpu-hour-price 1.5 --set method.gamma=2 --seed 9 "
    "--device cpu --precision float32 --workers-per-trial 2 --tracking-uri sqlite:///x.db "
    "--register best --out there --dry-run --keys "
    "--backbone mobilenetv2 --set backbone.layer=2"
)


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_places(tmp_path, monkeypatch)


def launched(monkeypatch: pytest.MonkeyPatch, options: str) -> tuple[Any, ...]:
    """Runs the command up to where a run would begin."""
    calls: list[tuple[Any, ...]] = []

    def launch(*arguments: Any, dry_run: bool, keys: bool) -> None:
        calls.append((*arguments, dry_run, keys))

    monkeypatch.setattr("usseg_ray.sweeps.launch.launch", launch)
    done = CliRunner().invoke(app, options.split())
    assert done.exit_code == 0, done.output
    (call,) = calls
    return call


def test_options_have_the_types_of_their_fields() -> None:
    hints, fields = get_type_hints(tune), Request.model_fields
    parameters = inspect.signature(tune).parameters.items()
    made = [name for name, given in parameters if isinstance(given.default, OptionInfo)]
    same = [name for name in made if name in fields]
    assert set(made) - set(same) == {"time_budget", "register"}
    assert {name: hints[name] for name in same} == {name: fields[name].annotation for name in same}


def test_without_options_a_request_is_as_its_fields_say(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Request(methods=with_spaces(["acseg"], None), assigned={})
    assert launched(monkeypatch, "") == (expected, None, None, False, False)


def test_every_option_reaches_its_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, out, resume, *printed = launched(monkeypatch, OPTIONS)
    assert (out, resume, printed) == ("there", None, [True, True])
    assert request == Request(
        methods=with_spaces(["kmeans", "acseg"], None),
        data="a-set",
        assigned={
            "backbone.name": "mobilenetv2_100.ra_in1k",
            "backbone.weights": None,
            "backbone.layer": 2,
            "backbone.timm_args": {},
            "backbone.mean": None,
            "backbone.std": None,
            "backbone.note": "supervised-ImageNet backbone",
            "resources.device": "cpu",
            "resources.precision": "float32",
            "resources.num_workers": 2,
            "seed": 9,
            "method.gamma": 2,
        },
        num_samples=4,
        question="k",
        search="optuna",
        scheduler="asha",
        objective="label_free.modularity",
        warm_start="all",
        max_concurrent=2,
        time_budget_s=120,
        # A question about K is answered by all of its trials.
        finalists=0,
        seeds=7,
        gpu_hour_price=1.5,
        tracking_uri="sqlite:///x.db",
        register_as="best",
    )
    mine = tmp_path / "mine.yaml"
    mine.write_text("space: {method.lr: {uniform: [1e-4, 1e-3]}}")
    plain, *_ = launched(monkeypatch, f"--preset hp-cityscapes --finalists 5 --space {mine}")
    assert (plain.preset, plain.finalists) == ("hp-cityscapes", 5)
    assert plain.methods == {"hp": str(mine)}


def test_resuming_asks_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched(monkeypatch, "--resume earlier") == (None, None, "earlier", False, False)


@pytest.mark.parametrize("option", ["--num-samples", "--max-concurrent", "--seeds"])
def test_bounds_are_refused_by_name(option: str) -> None:
    done = CliRunner().invoke(app, [option, "0"])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.output
