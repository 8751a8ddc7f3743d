"""Names stay on the right clusters when a model is trained again on more images.

The embedded scenes have labels; models see none of them, and here they say what is right.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import fitting
from tests.integration.commands import here
from usseg_ray.data import synthetic
from usseg_ray.data.manifest import Manifest, save_manifest, split_totals
from usseg_ray.data.shards import Row, write_split
from usseg_ray.models.description import read_description, write_description
from usseg_ray.models.folder import describe, save_model
from usseg_ray.models.names import Names
from usseg_ray.models.segmenter import Segmenter

COUNT, MORE = 40, 48
K = 10
SIDE = synthetic.SIZE


def row(index: int) -> Row:
    stream = io.BytesIO()
    Image.fromarray(synthetic.scene(0, "train", index)[0]).save(stream, "PNG")
    return Row(f"scene {index}", stream.getvalue(), None, SIDE, SIDE)


def trained(folder: Path, images: int, seed: int) -> Path:
    """Trains on scenes without labels, and keeps the model."""
    shards = list(write_split(folder / "set", "train", map(row, range(images)), 16))
    manifest = Manifest(
        name="scenes",
        classes=(),
        ignore_index=255,
        splits=split_totals(shards),
        shards=tuple(shards),
        source="a test",
    )
    save_manifest(manifest, folder / "set")
    place = str(folder / "set")
    settings: dict[str, Any] = {
        "data__train_size": SIDE,
        "data__eval_size": SIDE,
        "num_clusters": K,
        "seed": seed,
    }
    # As many starts as k-means has unless a test wants it quick.
    settings |= {"data__name": place, "method__restarts": 10}
    run, context = fitting.run_of((place, manifest), "kmeans", **settings)
    run.fit()
    assert context.state is not None
    about = describe("kmeans", run.config, run.featurise.backbone, manifest)
    save_model(folder / "model", about, context.state.method)
    return folder / "model"


def truly(model: Path) -> list[str]:
    """Names every cluster after the class that most of its pixels are of."""
    about = read_description(model)
    plain = about.model_copy(update={"names": Names.default(K)})
    segmenter = Segmenter(plain, Segmenter.open(model).model)
    counts = np.zeros((K, len(synthetic.CLASSES)), np.int64)
    for index in range(COUNT):
        image, labels = synthetic.scene(0, "train", index)
        np.add.at(counts, (segmenter.segment(image).mask.ravel(), labels.ravel()), 1)
    return [synthetic.CLASSES[number] for number in counts.argmax(1)]


@pytest.mark.parametrize("seed", [0, 1])
def test_nine_of_ten_names_stay_right(tmp_path: Path, seed: int) -> None:
    old = trained(tmp_path / "old", COUNT, 0)
    about = read_description(old)
    tree = about.names.tree()
    for cluster, name in enumerate(truly(old)):
        tree[cluster]["name"] = name
    write_description(about.model_copy(update={"names": Names.of_tree(tree, "test")}), old)
    new = trained(tmp_path / "new", MORE, seed)
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(MORE):
        (photos / f"{index}.png").write_bytes(row(index).image)
    done = here("name", "--model", new, "--names-of", old, "--images", photos, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) >= K
    names = [one.name for one in read_description(new).names.clusters]
    right = [given == is_so for given, is_so in zip(names, truly(new), strict=True)]
    assert sum(right) >= 0.9 * K, done.stdout
    # A name that is wrong was said to be doubtful.
    wrong = [line for line, fits in zip(lines, right, strict=False) if not fits]
    assert all("doubtful" in line or "no name" in line for line in wrong), done.stdout
