"""The whole way of a folder of photographs, as the docs have it: to masks, names, and out again.

Each station has a suite of its own; here what one leaves is what the next takes.
"""

import json
from pathlib import Path

import httpx
import mlflow
import numpy as np
import onnxruntime
import pytest
import ray
from PIL import Image
from pycocotools import mask as coco

import usseg_ray
from tests.browser import Browser, find_chromium
from tests.integration.commands import here
from tests.integration.test_serve import Server, choose, post, rows, until
from usseg_ray.data import synthetic
from usseg_ray.models.description import read_description
from usseg_ray.models.loaded import Result

pytestmark = [
    pytest.mark.ray,
    pytest.mark.lengthy,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed"),
]

COUNT, NEW = 60, 3
CALLED = ["Straße", "water", "tree & bush", "roof", "sky"]
FORMATS = "png,overlay,coco,geotiff,geojson,parquet,confidence,cvat,label-studio"
SMALL = ("--set", "data.train_size=64", "--set", "data.eval_size=64")


def photographs(folder: Path, numbers: range) -> Path:
    for number in numbers:
        place = folder / ("写真 été" if number % 2 else "a/b c")
        place.mkdir(parents=True, exist_ok=True)
        scene = Image.fromarray(synthetic.scene(3, "train", number)[0])
        scene.resize((80, 60)).save(place / f"bild {number}.jpg")
    return folder


def ran(folder: Path, command: str, *arguments: str | Path) -> str:
    done = here(command, *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_photographs_become_a_named_model_that_others_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = photographs(tmp_path / "photos", range(COUNT))
    new = photographs(tmp_path / "new", range(COUNT, COUNT + NEW))
    quick = ("--method", "kmeans", "--num-samples", "2", "--seeds", "1", "--backbone", "textons")
    said = ran(tmp_path, "fit", photos, "--out", "runs/first", *quick, *SMALL)
    assert f"{COUNT} images, without labels" in said
    run = tmp_path / "runs" / "first"
    page = (run / "gallery.html").read_text("utf-8")
    assert page.count("data-cluster=") == read_description(run / "model").num_clusters

    # A split makes sure that there are five clusters, whatever K was found.
    (tmp_path / "split.yaml").write_text("0: {split: 2}\n")
    ran(tmp_path, "name", "split.yaml", "--model", run, "--images", photos)
    lines = [f"{number}: {{name: {json.dumps(name)}}}" for number, name in enumerate(CALLED)]
    (tmp_path / "names.yaml").write_text("\n".join(lines), "utf-8")
    ran(tmp_path, "name", "names.yaml", "--model", run)

    place = ("--images", new, "--out", "out", "--save", FORMATS)
    ran(tmp_path, "predict", "--model", run, *place)
    model = usseg_ray.load(run, device="cpu")
    assert [name.name for name in model.names.clusters[:5]] == CALLED
    image = new / "a" / "b c" / f"bild {COUNT}.jpg"
    expected = model.predict(image)
    assert isinstance(expected, Result)
    masks = sorted((tmp_path / "out" / "masks").rglob("*.png"))
    assert len(masks) == NEW
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "a" / "b c" / f"bild {COUNT}.png"))
    assert np.array_equal(mask, expected.mask)
    told = json.loads((tmp_path / "out" / "annotations.json").read_text("utf-8"))
    names = {one["id"]: one["name"] for one in told["categories"]}
    (number,) = [one["id"] for one in told["images"] if one["file_name"].endswith(image.name)]
    area = dict.fromkeys(names.values(), 0)
    for one in told["annotations"]:
        if one["image_id"] == number:
            area[names[one["category_id"]]] += int(coco.area(one["segmentation"]))
    assert {name for name, pixels in area.items() if pixels} == set(expected.shares)

    monkeypatch.chdir(tmp_path)
    pixels = expected.image
    asked = ("export", "--model", run, "--format")
    ran(tmp_path, *asked, "onnx", "--out", "first.onnx", "--check", "--images", new)
    graph = onnxruntime.InferenceSession("first.onnx")
    about = json.loads(graph.get_modelmeta().custom_metadata_map["names"])
    assert about[0]["name"] == CALLED[0]
    ran(tmp_path, *asked, "pyfunc", "--out", "first_mlflow")
    other = mlflow.pyfunc.load_model("first_mlflow").predict(pixels[None])
    assert np.array_equal(other[0], expected.mask)
    ran(tmp_path, *asked, "safetensors", "--out", "first_whole")
    whole = usseg_ray.load("first_whole", device="cpu").predict(pixels)
    assert np.array_equal(whole.mask, expected.mask)

    served(run, image, expected, tmp_path)


def served(run: Path, image: Path, expected: Result, folder: Path) -> None:
    """Asks `serve` for the mask, and sees the names on the page of `demo`."""
    # Both join the tests' cluster, at the same moment.
    joined = ray.get_runtime_context().gcs_address
    common = ("--model", str(run), "--port", "0", "--device", "cpu")
    running = [Server(folder, joined, name, *common) for name in ("serve", "demo")]
    try:
        with httpx.Client(base_url=running[0].address(), timeout=120) as client:
            told = post(client, image.read_bytes(), "?format=json").json()
        assert {one["name"] for one in told["segments"]} == set(expected.shares)
        with Browser(str(find_chromium()), folder / "profile") as browser:
            browser.open(f"{running[1].address()}/", width=1280)
            choose(browser, image)
            until(lambda: rows(browser))
            assert {name for name, _, _ in rows(browser)} == set(expected.shares)
    finally:
        for server in running:
            server.process.terminate()
        for server in running:
            server.process.wait(60)
