"""A gallery is one page with all clusters, foreign words in it harmless, its size bounded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from usseg_ray.models.description import Description, read_description
from usseg_ray.models.names import Names
from usseg_ray.outputs.gallery.page import gallery, write_gallery
from usseg_ray.outputs.gallery.seen import ClusterPatches, GalleryImage
from usseg_ray.outputs.gallery.survey import Survey

HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        Image.fromarray(tiny.picture(number)[0]).save(folder / f"<b>{number}.png")
    return folder


def test_every_cluster_has_its_pictures_and_its_form(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "maps.png"
    Image.new("RGB", (40, 30), "red").save(picture)
    out = tmp_path / "gallery.html"
    found = write_gallery(model, str(photos), out, pictures={"Maps & more": picture})
    page = out.read_text("utf-8")
    assert len(found.seen) == 4
    for cluster in range(3):
        part = page.partition(f'id="cluster-{cluster}"')[2].partition("</article>")[0]
        assert f"{100 * found.shares[cluster]:.1f} % of the pixels" in part
        assert "Touches cluster" in part
        assert part.count("<img") == 12
        assert f'data-cluster="{cluster}"' in part
    assert "<h2>Maps &amp; more</h2>" in page
    assert f"usseg-ray name names.yaml --model {model}" in page
    assert "Seen in 4 images." in page
    assert "<b>" not in page
    assert "http://" not in page
    assert "https://" not in page


def test_names_of_the_model_are_filled_in(model: Path) -> None:
    about = read_description(model)
    tree = about.names.tree()
    tree[0] |= {"name": HOSTILE, "merge_into": 2}
    tree[1] |= {"ignore": True}
    found = noisy(about, about.num_clusters, 2)
    named = about.model_copy(update={"names": Names.of_tree(tree, "test")})
    page = gallery(replace(found, description=named), "my run", {})
    assert HOSTILE not in page
    assert 'value="&quot;&gt;&lt;script&gt;' in page
    assert 'max="2" value="2"' in page
    assert page.count(" checked") == 1
    assert "--model &#x27;my run&#x27;" in page


def noisy(about: Description, clusters: int, images: int) -> Survey:
    """The worst that can come: noise, which no picture codes short."""
    random = np.random.default_rng(0)

    def one(number: int) -> GalleryImage:
        everywhere = random.integers(0, 144, (3, clusters))
        patches = ClusterPatches(
            (12, 12),
            random.random(clusters).astype(np.float32),
            everywhere[0],
            random.random(clusters).astype(np.float32),
            everywhere[1],
            everywhere[2] % clusters,
        )
        return GalleryImage(
            f"{number}.jpg",
            random.integers(0, 256, (160, 160, 3), np.uint8),
            random.integers(0, clusters, (160, 160)).astype(np.uint16),
            random.random(4).astype(np.float32),
            np.full(clusters, 1 / clusters, np.float32),
            patches,
            random.integers(0, 9, (160, 160)).astype(np.uint8),
        )

    names = Names.default(clusters)
    named = about.model_copy(update={"num_clusters": clusters, "names": names})
    return Survey(named, tuple(one(number) for number in range(images)), images, 0)


@pytest.mark.parametrize("clusters", [32, 140])
def test_its_size_has_a_bound(model: Path, clusters: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (500, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    pictures = {"a": tmp_path / "noise.png", "b": tmp_path / "noise.png"}
    page = gallery(noisy(read_description(model), clusters, 6), "run", pictures)
    assert len(page.encode()) < 6_000_000
    assert page.count('name="colour"') == clusters
    assert ("largest have pictures" in page) == (clusters == 140)
