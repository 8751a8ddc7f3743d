from pathlib import Path
from typing import Any

import pytest

from usseg_ray import __version__, methods
from usseg_ray.core.errors import UserError
from usseg_ray.core.records import DamagedError
from usseg_ray.sweeps.request import (
    REQUEST_FILE,
    Request,
    named_method,
    named_methods,
    option,
    with_spaces,
)


def request(**changed: Any) -> Request:
    asked: dict[str, Any] = {
        "methods": {"acseg": "space.yaml", "kmeans": None},
        "data": "synthetic",
        "assigned": {},
        "num_samples": 6,
        "search": "random",
        "scheduler": "none",
    }
    return Request.model_validate(asked | changed)


def test_an_option_is_its_field() -> None:
    made = option("num_samples")
    assert (made.default, made.min, made.max, made.metavar) == (6, 1, None, None)
    assert made.help == Request.model_fields["num_samples"].description
    assert [option(name).min for name in ("finalists", "gpu_hour_price", "data")] == [0, 0, None]
    # A time is read before it is a number.
    assert option("time_budget_s", "TIME").min is None
    assert option("time_budget_s", "TIME").metavar == "TIME"


def test_methods_are_read_in_their_order_and_once() -> None:
    assert named_methods("kmeans,acseg, kmeans", None) == ["kmeans", "acseg"]
    assert named_methods("acseg", None) == ["acseg"]


def test_all_leaves_out_the_floors_that_stand_beside() -> None:
    known = {method.name for method in methods.METHODS}
    assert set(named_methods("all", None)) == known - {"position", "colour", "image"}


def test_without_a_method_a_preset_names_it() -> None:
    assert named_methods(None, None) == ["acseg"]
    assert named_methods(None, "acseg-voc2012") == ["acseg"]


@pytest.mark.parametrize(
    ("names", "preset", "message"),
    [
        ("acseg,kmean", None, "Unknown method: 'kmean'; did you mean 'kmeans'"),
        ("acseg,", None, "Unknown method: ''"),
        (None, "acseg-voc", "Unknown preset: 'acseg-voc'; did you mean 'acseg-voc2012'"),
    ],
)
def test_names_that_do_not_exist(names: str | None, preset: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        named_methods(names, preset)


def test_one_run_has_one_method() -> None:
    assert named_method("kmeans", None) == "kmeans"
    with pytest.raises(UserError, match=r"usseg_ray\.tune --method acseg,kmeans"):
        named_method("acseg,kmeans", None)


def test_every_method_has_its_own_space_and_a_file_is_for_one() -> None:
    spaces = with_spaces(["acseg", "kmeans"], None)
    assert {name: Path(str(path)).name for name, path in spaces.items()} == {
        "acseg": "acseg.yaml",
        "kmeans": "kmeans.yaml",
    }
    assert with_spaces(["acseg"], "mine.yaml") == {"acseg": "mine.yaml"}
    with pytest.raises(UserError, match=r"--space mine\.yaml is for one method, not for acseg"):
        with_spaces(["acseg", "kmeans"], "mine.yaml")


def test_a_folder_has_a_space_for_some_methods(tmp_path: Path) -> None:
    own = tmp_path / "acseg.yaml"
    own.write_text("space: {}\n")
    spaces = with_spaces(["acseg", "kmeans"], str(tmp_path))
    assert spaces["acseg"] == str(own)
    assert Path(str(spaces["kmeans"])).parent.name == "search_spaces"
    with pytest.raises(UserError, match=r"the folder has no hp\.yaml"):
        with_spaces(["hp", "stego"], str(tmp_path))


def test_a_request_is_saved_whole_and_in_order(tmp_path: Path) -> None:
    asked = request(
        methods={"kmeans": None, "acseg": "space.yaml"},
        assigned={"backbone.timm_args.pad": "same", "seed": 2},
        key="abc",
    )
    asked.save(tmp_path)
    read = Request.load(tmp_path)
    assert read == asked
    assert list(read.methods) == ["kmeans", "acseg"]
    assert asked.version == __version__


SECRET_STORE = "postgresql://anna:HUNTER@db:5432/mlflow"


def test_the_password_of_the_tracking_store_is_never_at_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request(tracking_uri=SECRET_STORE).save(tmp_path)
    assert "HUNTER" not in (tmp_path / REQUEST_FILE).read_text()
    kept = Request.load(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://anna:HUNTER@other/mlflow")
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI to the whole address"):
        kept.with_password()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET_STORE)
    assert kept.with_password().tracking_uri == SECRET_STORE


@pytest.mark.parametrize("uri", [None, "sqlite:///a.db", "http://127.0.0.1:5000"])
def test_a_store_without_a_password_needs_no_environment(tmp_path: Path, uri: str | None) -> None:
    asked = request(tracking_uri=uri)
    asked.save(tmp_path)
    assert Request.load(tmp_path).with_password() == asked


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"data": "s3://ID:HUNTER@bucket/set"}, "--data"),
        ({"storage": "s3://bucket/run?secret_key=HUNTER"}, "--out"),
        ({"assigned": {"backbone.weights": "https://me:HUNTER@host/w"}}, "--set backbone.weights"),
    ],
)
def test_an_address_that_would_be_kept_carries_no_secret(
    changed: dict[str, Any], option: str
) -> None:
    with pytest.raises(UserError, match="through the environment") as told:
        request(**changed).check_secrets()
    assert str(told.value).startswith(option)
    assert "HUNTER" not in str(told.value)
    request(data="gs://anonymous@bucket/set").check_secrets()


def test_nor_does_a_search_space(tmp_path: Path) -> None:
    space = tmp_path / "kmeans.yaml"
    space.write_text("fixed: {backbone.weights: 's3://ID:HUNTER@bucket/w'}\nspace: {}\n")
    asked = request(methods={"kmeans": str(space)})
    with pytest.raises(UserError, match=r"^--space kmeans\.fixed\.backbone\.weights=s3") as told:
        asked.begun("key")
    assert "HUNTER" not in str(told.value)


def test_one_that_is_cut_off_is_not_believed(tmp_path: Path) -> None:
    request(num_samples=7).save(tmp_path)
    path = tmp_path / REQUEST_FILE
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedError, match="is damaged"):
            Request.load(tmp_path)


def test_no_flipped_letter_is_believed(tmp_path: Path) -> None:
    request(num_samples=6).save(tmp_path)
    file = tmp_path / "sweep.yaml"
    whole = file.read_text()
    file.write_text(whole.replace("num_samples: 6", "num_samples: 7"))
    with pytest.raises(DamagedError, match=r"sweep\.yaml is damaged: its sha256 is not"):
        Request.load(tmp_path)
    # One of an earlier version has none.
    file.write_text(whole.partition("\n")[2])
    assert Request.load(tmp_path) == request(num_samples=6)


def test_a_folder_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no sweep to resume \(sweep.yaml is missing\)"):
        Request.load(tmp_path)


def test_a_request_of_another_version_is_refused(tmp_path: Path) -> None:
    request().model_copy(update={"version": "0.0.0"}).save(tmp_path)
    with pytest.raises(UserError, match=f"written by version 0.0.0, this is {__version__}"):
        Request.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[", "just text", f"version: {__version__}\nmethods: {{}}"])
def test_a_damaged_request_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / REQUEST_FILE).write_text(text)
    with pytest.raises(UserError, match=r"sweep\.yaml is damaged"):
        Request.load(tmp_path)
