"""Predicting on a real cluster: what is written, what is not done again, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests import tiny
from tests.anyup import named
from tests.integration.bucket import bucket
from tests.integration.commands import Ended, here
from tests.unit.models.conftest import kept
from usseg_ray.cluster.worker_pool import pooled
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import resolve
from usseg_ray.models.description import read_description, write_description
from usseg_ray.models.names import Names
from usseg_ray.outputs.formats import FORMATS
from usseg_ray.outputs.run import predict
from usseg_ray.scoring.anyup_file import VARIABLE

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NAMES = ("a b/ü.png", "a b/日本.jpg", "c.jpg", "c.png", "d/e/f.webp")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept(tmp_path_factory.mktemp("kept"), "kmeans")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five photographs in nested folders, and two files that are none."""
    folder = tmp_path / "images"
    for number, name in enumerate(NAMES):
        draw(folder / name, number)
    (folder / "broken.jpg").write_text("no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tiny.picture(number, (64, 48))[0]).save(path)


def command(model: Path, images: Path | str, out: Path | str, *more: str) -> Ended:
    return here("predict", "--model", model, "--images", images, "--out", out, *more)


def stamps(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (out / "masks").rglob("*.png")}


def test_the_command_writes_every_format(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = command(model, images, out, "--save", ",".join(FORMATS))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1 files passed over: .txt 1." in ended.stdout
    assert "1 image cannot be used" in ended.stdout
    assert "5 images segmented" in ended.stdout
    for form in FORMATS.values():
        if form.sink is not None:
            assert len([p for p in (out / form.folder).rglob("*") if p.is_file()]) == 5
        assert all((out / name).stat().st_size > 0 for name in form.gathered)
    (line,) = (out / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "broken.jpg"
    assert len(COCO(str(out / "annotations.json")).dataset["images"]) == 5
    assert set(pq.read_table(out / "shares.parquet")["image"].to_pylist()) == set(NAMES)
    assert not list(out.rglob("*.unfinished"))
    assert not (out / ".lock").exists()


def test_only_what_is_missing_is_done(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(model, str(images), str(out)).written == 5
    first = stamps(out)
    again = predict(model, str(images), str(out))
    assert (again.written, again.kept, stamps(out)) == (0, 5, first)
    draw(images / "new.png", 9)
    draw(images / "c.jpg", 10)
    (out / "masks" / "d" / "e" / "f.png").unlink()
    (out / "masks" / "a b" / "ü.png").write_bytes(b"")
    some = predict(model, str(images), str(out))
    assert (some.written, some.kept) == (4, 2)
    untouched = [out / "masks" / "a b" / "日本.png", out / "masks" / "c.png.png"]
    assert [stamps(out)[path] for path in untouched] == [first[path] for path in untouched]


def test_formats_are_added_to_what_is_there(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(model, str(images), str(out))
    assert predict(model, str(images), str(out), formats=("coco",)).written == 5
    both = predict(model, str(images), str(out), formats=("png", "coco"))
    assert (both.written, both.files) == (0, ("annotations.json",))


def test_refiners_are_part_of_what_masks_hang_on(model: Path, images: Path, tmp_path: Path) -> None:
    plain, out = tmp_path / "plain", tmp_path / "guided"
    predict(model, str(images), str(plain))
    refined = command(model, images, out, "--refine", "guided+flip")
    assert refined.returncode == 0, refined.stderr
    kinds = {folder: (folder / "masks" / "c.jpg.png").read_bytes() for folder in (plain, out)}
    assert kinds[plain] != kinds[out]
    again = predict(model, str(images), str(out), refine="flip+guided")
    assert (again.written, again.kept) == (0, len(NAMES))
    refused = command(model, images, out)
    assert "other options (--refine flip+guided; now none)" in refused.stderr
    unknown = command(model, images, tmp_path / "new", "--refine", "sharp")
    assert unknown.returncode == 2
    assert "--refine sharp: a combination of flip, sliding, anyup, guided, crf" in unknown.stderr
    assert not (tmp_path / "new").exists()


def test_masks_by_other_weights_of_anyup_are_others(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, named_one = tmp_path / "out", named(tmp_path / "one.safetensors")
    monkeypatch.setenv(VARIABLE, named_one)
    assert predict(model, str(images), str(out), refine="anyup").written == len(NAMES)
    assert predict(model, str(images), str(out), refine="anyup").kept == len(NAMES)
    monkeypatch.setenv(VARIABLE, named(tmp_path / "other.safetensors", seed=1))
    refused = command(model, images, out, "--refine", "anyup")
    digest = named_one.partition("#sha256=")[2][:12]
    assert f"other options (--refine anyup by weights {digest}; now --re" in refused.stderr
    monkeypatch.delenv(VARIABLE)
    missing = command(model, images, tmp_path / "new", "--refine", "anyup")
    assert "download anyup_multi_backbone.pth (CC BY 4.0)" in missing.stderr


def test_what_others_made_is_left_alone(model: Path, images: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    predict(model, str(images), str(out))
    first = stamps(out)
    (other / "model").parent.mkdir()
    (other / "model").mkdir()
    for file in model.iterdir():
        (other / "model" / file.name).write_bytes(file.read_bytes())
    description = read_description(model)
    named = description.model_copy(
        update={"names": Names.default(3, ((9, 9, 9), (1, 1, 1), (2, 2, 2)))}
    )
    write_description(named, other / "model")
    refused = command(other / "model", images, out)
    assert refused.returncode == 2
    assert "written by the same model with other names" in refused.stderr
    refused = command(model, images, out, "--tile", "32")
    assert "other options (none; now --tile 32, --overlap 0.25)" in refused.stderr
    assert stamps(out) == first
    assert command(other / "model", images, out, "--overwrite").returncode == 0
    with Image.open(out / "masks" / "c.png.png") as picture:
        assert (picture.getpalette() or [])[:3] == [9, 9, 9]
    assert set(stamps(out)) == set(first)
    assert command(model, images, images).returncode == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert "written by something else" in command(model, images, tmp_path / "full").stderr


def test_where_no_image_can_be_used_it_says_why(model: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "text.jpg").write_text("text")
    ended = command(model, tmp_path / "images", tmp_path / "out")
    assert ended.returncode == 2
    assert "none of 1 images can be used; the first, text.jpg: not a JPEG" in ended.stderr


def test_a_bucket_is_read_and_written(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bucket() as environment:
        query = f"?endpoint_override={environment['AWS_ENDPOINT_URL'].replace('://', '%3A%2F%2F')}"
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        place = f"s3://key:secret@bucket/photos{query}"
        filesystem, root = resolve(place)
        for name in NAMES:
            with filesystem.open_output_stream(f"{root}/{name}") as stream:
                stream.write((images / name).read_bytes())
        out = f"s3://key:secret@bucket/out{query}"
        found = predict(model, place, out, formats=("png", "coco"))
        assert (found.written, found.bad) == (5, [])
        assert predict(model, place, out, formats=("png", "coco")).kept == 5
        _, there = resolve(out)
        with filesystem.open_input_stream(f"{there}/masks/a b/日本.png") as stream:
            (tmp_path / "x.png").write_bytes(stream.read())
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (48, 64)


def test_an_interrupted_run_leaves_whole_files_and_goes_on(model: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    for number in range(120):
        draw(images / f"{number:03}.png", number % 5)
    arguments = ["--model", model, "--images", images, "--out", out, "--save", "png,overlay"]
    program = [sys.executable, "-m", "usseg_ray.predict", *map(str, arguments)]
    running = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list((out / "masks").glob("*.png"))) < 20:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGINT)
    assert running.wait(timeout=60) == 130
    written = list((out / "masks").glob("*.png"))
    assert len(written) < 120
    for path in written:
        with Image.open(path) as picture:
            assert np.asarray(picture).shape == (64, 48)
    assert not list(out.rglob("*.unfinished"))
    rest = predict(model, str(images), str(out), formats=("png", "overlay"))
    assert rest.kept + rest.written == 120
    assert rest.kept > 0


class Doubling:
    """A worker that doubles numbers, and refuses one."""

    def __init__(self, refused: int, device: str, threads: int) -> None:
        assert (device, threads > 0) == ("cpu", True)
        self._refused = refused

    def __call__(self, numbers: Iterable[int]) -> list[int]:
        given = list(numbers)
        if self._refused in given:
            raise UserError(f"{self._refused} is refused.")
        return [2 * number for number in given]


def test_a_pool_does_every_item_once() -> None:
    assert sorted(pooled(Doubling, (-1,), range(100), "cpu")) == [*range(0, 200, 2)]
    assert list(pooled(Doubling, (-1,), [7], "cpu")) == [14]


def test_what_a_worker_says_to_the_user_arrives() -> None:
    with pytest.raises(UserError, match="7 is refused"):
        list(pooled(Doubling, (7,), range(20), "cpu"))
