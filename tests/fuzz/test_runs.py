"""Whatever a run or a model has become: read, or told in the product's own error."""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.files import damaged, edits
from tests.fuzz.values import json_values, seldom
from tests.unit.sweeps.test_request import request
from usseg_ray.core.errors import UserError
from usseg_ray.engine.checkpoint import STATE_FILE, RunState
from usseg_ray.models.description import MODEL_FILE
from usseg_ray.models.folder import WEIGHTS_FILE, read_model
from usseg_ray.sweeps.features import CHOSEN_FILE, load_chosen
from usseg_ray.sweeps.finals.scores import FINAL_FILE, load_final
from usseg_ray.sweeps.request import REQUEST_FILE, Request
from usseg_ray.trials.tasks import BASELINES_FILE, load_baselines
from usseg_ray.trials.trial import (
    SCORES_FILE,
    TEST_SCORES_FILE,
    TRIAL_FILE,
    Trial,
    load_scored,
    load_trial,
    noted_test_scores,
)

READERS: dict[str, Callable[[Path], object]] = {
    TRIAL_FILE: load_trial,
    SCORES_FILE: load_scored,
    BASELINES_FILE: load_baselines,
    CHOSEN_FILE: load_chosen,
    FINAL_FILE: load_final,
    TEST_SCORES_FILE: noted_test_scores,
    REQUEST_FILE: Request.load,
}


def whole_trial() -> dict[str, object]:
    return asdict(Trial(1, "kmeans", {}, {"seed": 1}, 3, metrics={"unsup_miou": 1.5}))


@seldom
@given(
    name=st.sampled_from(sorted(READERS)),
    content=json_values.map(lambda value: json.dumps(value).encode()) | st.binary(),
)
def test_records(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for home in (Path(folder), Path(folder, "a")):  # some are sought below it
            home.mkdir(exist_ok=True)
            (home / name).write_bytes(content)
        with suppress(UserError):
            READERS[name](Path(folder))


@seldom
@given(changes=st.dictionaries(st.sampled_from(sorted(whole_trial())), json_values, max_size=3))
def test_trials(changes: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, TRIAL_FILE).write_text(json.dumps(whole_trial() | changes))
        with suppress(UserError):
            load_trial(Path(folder))


@seldom
@given(
    changes=st.dictionaries(st.sampled_from(sorted(Request.model_fields)), json_values, max_size=3)
)
def test_requests(changes: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        request().save(Path(folder))
        path = Path(folder, REQUEST_FILE)
        kept = yaml.safe_load(path.read_text())
        path.write_text(json.dumps(kept | changes))
        with suppress(UserError):
            Request.load(Path(folder))


def state() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        RunState(1, {"unsup_miou": 1.0}, {"weights": torch.arange(6.0)}).save(Path(folder))
        return Path(folder, STATE_FILE).read_bytes()


STATE = state()


@seldom
@given(made=edits, cut=st.floats(0, 1))
def test_checkpoints(made: list[tuple[float, bytes]], cut: float) -> None:
    content = damaged(STATE, made)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, STATE_FILE).write_bytes(content[: int((0.5 + cut) * len(content))])
        with suppress(UserError):
            RunState.load(Path(folder), torch.device("cpu"))


DESCRIPTION: dict[str, Any] = {
    "format_version": 1,
    "usseg_ray": "0.2.0",
    "method": "kmeans",
    "num_clusters": 2,
    "config": {},
    "backbone": {"name": "textons"},
    "preprocessing": {"size": 64},
    "names": {0: {"name": "a"}, 1: {"name": "b"}},
    "weights_sha256": "0" * 64,
}


@seldom
@given(changes=st.dictionaries(st.sampled_from(sorted(DESCRIPTION)), json_values, max_size=3))
def test_models(changes: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, MODEL_FILE).write_text(yaml.safe_dump(DESCRIPTION | changes))
        Path(folder, WEIGHTS_FILE).write_bytes(b"none")
        with suppress(UserError):
            read_model(Path(folder))


@seldom
@given(content=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_files_of_models(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, MODEL_FILE).write_bytes(content)
        Path(folder, WEIGHTS_FILE).write_bytes(content)
        with suppress(UserError):
            read_model(Path(folder))
