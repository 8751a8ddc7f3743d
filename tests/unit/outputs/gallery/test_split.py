"""A cluster that holds two things is made two, and the others keep what they were."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.unit.models.conftest import kept
from usseg_ray.core.errors import UserError
from usseg_ray.methods import get
from usseg_ray.models.description import read_description
from usseg_ray.models.folder import is_split_of, read_model
from usseg_ray.models.names import Names
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.outputs.gallery.split import split

METHODS = ("kmeans", "acseg", "stego", "hp", "cause", "smooseg")


def photos(folder: Path, count: int = 8) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(tiny.picture(number, (64, 64))[0]).save(folder / f"{number}.png")
    return folder


def asking(model: Path, **keys: object) -> Names:
    """Names a cluster that fills most of the images, and asks for it to be split."""
    tree = read_description(model).names.tree()
    tree[largest(model)] |= {"split": 2, **keys}
    return Names.of_tree(tree, "test")


def largest(model: Path) -> int:
    return int(np.bincount(masks(model).ravel()).argmax())


def masks(model: Path) -> np.ndarray:
    segmenter = Segmenter.open(model)
    pictures = [tiny.picture(number, (64, 64))[0] for number in range(8)]
    return np.stack([segmenter.segment(one).mask for one in pictures])


def test_two_things_in_one_cluster_come_apart(tmp_path: Path) -> None:
    model = kept(tmp_path, "kmeans", num_clusters=2)
    before, cluster = masks(model), largest(model)
    names = asking(model, name="both")
    found = split(model, names, str(photos(tmp_path / "photos")))
    after = masks(model)
    assert (found.parts[0].cluster, found.parts[0].added) == (cluster, 2)
    # Three colours are three clusters now, and the one that was not split is what it was.
    truth = np.stack([tiny.picture(number, (64, 64))[1] for number in range(8)])
    inner = truth != tiny.IGNORE
    for colour in range(3):
        counts = np.bincount(after[inner & (truth == colour)], minlength=3)
        assert counts.max() / counts.sum() > 0.8, colour
    assert len({np.bincount(after[inner & (truth == c)]).argmax() for c in range(3)}) == 3
    assert np.mean((before == 1 - cluster) == (after == 1 - cluster)) > 0.95

    about = read_description(model)
    assert [one.name for one in about.names.clusters][cluster] == "both"
    assert about.names.clusters[2].name == "both 2"
    assert about.names.clusters[1 - cluster] == names.clusters[1 - cluster]
    assert len({one.colour for one in about.names.clusters}) == 3
    assert (about.num_clusters, about.config["num_clusters"], about.scores) == (3, 3, None)
    assert "both 2" in (model / "README.md").read_text("utf-8")
    assert "2: both 2 has the others." in " ".join(found.lines())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_centroids_splits(method: str, tmp_path: Path) -> None:
    model = kept(tmp_path, method, train__epochs=1)
    before, (about, state), cluster = masks(model), read_model(model), largest(model)
    found = split(model, asking(model), str(photos(tmp_path / "photos")))
    again, parted = read_model(model)
    after = masks(model)
    assert again.split_from == about.weights_sha256
    # A run that goes on, and ends with the same weights, knows it for what it is.
    assert is_split_of(model, state)
    assert not is_split_of(model, parted)
    longer = {key for key in state if len(parted[key].shape) and len(parted[key]) > len(state[key])}
    assert longer == set(get(method).centroids_in) & state.keys() != set()
    assert {cluster, 3} <= set(np.unique(after)), "both parts are somewhere"
    joined = np.where(after == 3, cluster, after)
    assert np.mean(joined != before) <= found.moved + 0.1
    assert 1 / 2 <= found.parts[0].share < 1
    # Once more: what came of a split can be split, and the first weights are remembered.
    split(model, asking(model), str(tmp_path / "photos"))
    assert read_description(model).num_clusters == 5
    assert read_description(model).split_from == about.weights_sha256


def test_a_method_without_centroids_says_so_and_stays(tmp_path: Path) -> None:
    model = kept(tmp_path, "picie", train__epochs=1)
    before = (model / "model.yaml").read_bytes()
    with pytest.raises(UserError, match=r"a network of its own, .* num_clusters=4"):
        split(model, asking(model), str(photos(tmp_path / "photos")))
    assert (model / "model.yaml").read_bytes() == before


def test_images_without_the_cluster_are_refused(model: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(model, tmp_path / "model"))
    names, place = asking(own), tmp_path / "photos"
    place.mkdir()
    segmenter = Segmenter.open(own)
    plain = [np.full((64, 64, 3), value, np.uint8) for value in np.eye(3, dtype=np.uint8) * 200]
    other = next(one for one in plain if largest(own) not in segmenter.segment(one).mask)
    Image.fromarray(other).save(place / "other.png")
    with pytest.raises(UserError, match="no two that differ"):
        split(own, names, str(place))
    (place / "other.png").write_text("no image")
    with pytest.raises(UserError, match="none can be used"):
        split(own, names, str(place))
