from pathlib import Path

import pytest

from tests import tiny
from tests.unit.prepare.test_packed import encoded
from usseg_ray.core.errors import UserError
from usseg_ray.outputs.manifest import Folder, Header
from usseg_ray.sweeps.own import fitting
from usseg_ray.sweeps.own.fitting import STEPS, FitResult, choose_backbone, fit, schedule
from usseg_ray.sweeps.request import Request


def test_the_result_says_where_everything_is_and_how_to_go_on() -> None:
    run = Path("runs/a run")
    found = FitResult(
        run, run / "model", run / "gallery.html", run / "outputs", 7, "kmeans", 5, "K = 5.", "No."
    )
    lines = found.lines()
    assert lines[:2] == ["K = 5.", f"kmeans, K = 5; model: {run / 'model'}"]
    assert f"Masks of 7 images, plain and over the image: {run / 'outputs'}" in lines
    # A run's name is quoted for the shell.
    assert found.commands["masks of images that you add"].endswith("--resume 'runs/a run'")
    assert not any("side by side" in line for line in lines)
    assert found._repr_html_().count("<div>") == len(lines)


@pytest.mark.parametrize(("images", "steps"), [(4, STEPS[0]), (100, 50), (5000, STEPS[1])])
def test_steps_follow_the_number_of_images(tmp_path: Path, images: int, steps: int) -> None:
    manifest = tiny.write(tmp_path, splits={"train": 3})
    splits = {"train": manifest.splits["train"].model_copy(update={"rows": images})}
    settings = schedule(manifest.model_copy(update={"splits": splits}))
    assert settings["train.steps_per_epoch"] == steps


def test_a_backbone_that_was_said_is_taken() -> None:
    assert choose_backbone("textons", {})[0]["backbone.name"] == "textons"
    assert choose_backbone(None, {"backbone.name": "other"}) == ({}, "Backbone: as --set says.")


def test_without_images_there_is_nothing_to_fit() -> None:
    with pytest.raises(UserError, match=r"which images\? usseg-ray fit FOLDER"):
        fit(None)


@pytest.mark.parametrize("name", ["photos", "synthetic"])
def test_a_folder_of_images_is_learnt_from_whatever_set_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path / "library"))
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path / "library" / name, splits={"train": 3})
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.jpg").write_bytes(encoded(0))

    def prepare_own(source: str, **_: object) -> None:
        raise UserError(f"prepared {source}")

    def launch(request: Request, *_: object, **__: object) -> None:
        raise UserError(f"trained on {request.data}")

    monkeypatch.setattr(fitting, "prepare_own", prepare_own)
    monkeypatch.setattr(fitting, "launch", launch)
    with pytest.raises(UserError, match=f"prepared {name}"):
        fit(name, backbone="textons", out=str(tmp_path / "run"))


def test_a_run_that_is_resumed_keeps_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("summer", "winter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(encoded(0))
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    header = Header(model="", names="", options={}, images=str(tmp_path / "summer"))
    Folder(str(run / "outputs")).begin(header, "")
    monkeypatch.setattr(fitting, "reopened", lambda _: (run, None))

    def masks(images: str, _: Path) -> None:
        raise UserError(f"masks of {images}")

    monkeypatch.setattr(fitting, "_masks", masks)
    with pytest.raises(UserError, match=r"its masks are of .*summer\. .*--images winter --out"):
        fit("winter", resume="run")
    with pytest.raises(UserError, match="masks of summer"):
        fit("summer", resume="run")
    (tmp_path / "summer").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="masks of moved"):
        fit("moved", resume="run")
