"""`fit` on photographs in nested folders: prepared, chosen, kept, masked; then gone on with."""

import html
import io
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import usseg_ray
from tests.integration.commands import here
from usseg_ray.core.errors import UserError
from usseg_ray.data import synthetic
from usseg_ray.models.loaded import Result
from usseg_ray.outputs.formats import FORMATS
from usseg_ray.prepare.own import prepare_own
from usseg_ray.sweeps.own import fitting, results
from usseg_ray.trials.trial import load_trials

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
COUNT = 20
GUIDE = Path(__file__).parents[2] / "docs" / "own_images.md"
SMALL = ("--set", "data.train_size=64", "--set", "data.eval_size=64")


def photograph(index: int) -> bytes:
    image, _ = synthetic.scene(3, "train", index)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG")
    return stream.getvalue()


def photographs(folder: Path) -> Path:
    """Twenty pictures in nested folders with names in any script, and a text that is called one."""
    for index in range(COUNT):
        place = folder / ("写真 été" if index % 2 else "a/b c")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"bild {index}.jpg").write_bytes(photograph(index))
    (folder / "a" / "text.jpg").write_text("no picture")
    return folder


def test_photographs_to_masks_and_on(tmp_path: Path) -> None:
    photos = photographs(tmp_path / "my photos")
    asked = ("--method", "kmeans", "--num-samples", "2", "--seeds", "1", "--backbone", "textons")
    done = here("fit", photos, "--out", "runs/first", *asked, *SMALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "20 images, without labels" in done.stdout
    assert "1 could not be read" in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("Backbone: textons; --backbone dino_s16")
    run = tmp_path / "runs" / "first"
    verdict = json.loads((run / "k" / "kmeans.json").read_text())["verdict"]
    assert verdict in done.stdout

    assert f"to look at and to name: {Path('runs/first/gallery.html')}" in done.stdout
    gallery = (run / "gallery.html").read_text("utf-8")
    assert "Under every K that was tried" in gallery
    assert f"Seen in {COUNT} of {COUNT + 1} images. 1 could not be used." in gallery

    model = usseg_ray.load(run)
    outputs = run / "outputs"
    written = sorted((outputs / "masks").rglob("*.png"))
    assert len(written) == len(list((outputs / "overlays").rglob("*.jpg"))) == COUNT
    mask = np.asarray(Image.open(outputs / "masks" / "a" / "b c" / "bild 0.png"))
    expected = model.predict(photos / "a" / "b c" / "bild 0.jpg")
    assert isinstance(expected, Result)
    assert np.array_equal(mask, expected.mask)

    before = {path: path.stat().st_mtime_ns for path in written}
    (photos / "later.jpg").write_bytes(photograph(COUNT))
    trials = len(load_trials(run))
    on = here("fit", photos, "--resume", "runs/first", folder=tmp_path)
    assert on.returncode == 0, on.stderr
    assert f"Masks of {COUNT + 1} images" in on.stdout
    assert (outputs / "masks" / "later.png").is_file()
    assert {path: path.stat().st_mtime_ns for path in written} == before
    assert len(load_trials(run)) == trials

    # What its last lines propose works as it stands.
    page = re.search(r"a page about the run: usseg-ray (report .*)", on.stdout)
    assert page is not None
    command, *options = shlex.split(page.group(1))
    told = here(command, *options, folder=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert "Label maps by number of clusters" in (tmp_path / "report.html").read_text()
    named = here("name", "--model", run, folder=tmp_path)
    (tmp_path / "names.yaml").write_text(named.stdout.replace("cluster 0", "rock"))
    assert here("name", "names.yaml", "--model", run, folder=tmp_path).returncode == 0
    again = here("fit", "--resume", "runs/first", "--names-of", "runs/first", folder=tmp_path)
    assert again.returncode == 0
    assert "0: rock (was 0, overlap 1.00, margin" in again.stdout
    assert "rock" in (outputs / "names.yaml").read_text()
    assert "0: rock" in (run / "gallery.html").read_text("utf-8")


def test_the_guide_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("one", "two", "three", "four"):
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(photograph(len(name)))
    (tmp_path / "photos" / "two.jpg").write_bytes(photograph(9))
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    found = names["found"]
    assert isinstance(found, fitting.FitResult)
    assert (found.images, found.method) == (4, "kmeans")
    assert found.num_clusters in {int(t.settings["num_clusters"]) for t in load_trials(found.run)}
    assert html.escape(found.verdict) in found._repr_html_()
    assert (tmp_path / "one.png").is_file()


def test_a_sweep_in_python_of_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"bytes": photograph(index), "path": f"{index}.jpg"} for index in range(6)]
    pq.write_table(pa.table({"image": rows}), "set.parquet")
    swept = usseg_ray.sweep(
        "set.parquet",
        methods=["kmeans"],
        out="swept",
        backbone="textons",
        settings={"data.train_size": 64, "data.eval_size": 64},
        question="k",
        num_samples=2,
        seeds=1,
        finalists=0,
    )
    assert isinstance(swept, results.SweepResult)
    assert swept.best.name in swept._repr_html_()
    assert [t.method for t in swept.trials] == ["kmeans"] * len(swept.trials)
    with pytest.raises(UserError, match="sweep: num_sample"):
        usseg_ray.sweep("synthetic", num_sample=3)


def test_a_set_is_made_once_and_anew_for_another_content(tmp_path: Path) -> None:
    photos = photographs(tmp_path / "photos")
    first = prepare_own(str(photos), tmp_path / "home")
    again = prepare_own(str(photos), tmp_path / "home")
    assert (first.prepared.fresh, again.prepared.fresh) == (True, False)
    (photos / "later.jpg").write_bytes(photograph(COUNT))
    assert prepare_own(str(photos), tmp_path / "home").prepared.out != first.prepared.out
    shown = usseg_ray.prepare(photos, tmp_path / "set")
    assert isinstance(shown, results.PreparedSet)
    assert "21" in shown._repr_html_()


def test_where_no_image_is_named_it_asks() -> None:
    with pytest.raises(UserError, match="which images"):
        fitting.fit(None)
    with pytest.raises(UserError, match="no such folder or file"):
        fitting.fit("nowhere")


def test_a_disk_without_room_is_told_before_anything_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = photographs(tmp_path / "photos")
    full = replace(FORMATS["png"], bytes_per_pixel=1e12)
    monkeypatch.setitem(FORMATS, "png", full)
    with pytest.raises(UserError, match=r"images as png, overlay take about .* GB are free"):
        fitting.fit(str(photos), out=str(tmp_path / "run"), backbone="textons")
    assert not (tmp_path / "run").exists()
