"""A survey looks at images from all over a folder, and chooses what to show by what is in them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from usseg_ray.core.errors import UserError
from usseg_ray.data.scaling import Scaling, Sight
from usseg_ray.models.description import read_description, write_description
from usseg_ray.models.names import Names
from usseg_ray.outputs.gallery import survey as surveys
from usseg_ray.outputs.gallery.survey import Survey, spread_codes, survey_images


def photos(folder: Path, count: int) -> Path:
    for number in range(count):
        place = folder / ("a" if number % 2 else "b c")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny.picture(number, (48, 64))[0]).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def found(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Survey:
    return survey_images(model, str(photos(tmp_path_factory.mktemp("photos"), 8)))


def test_shares_and_borders_are_of_all_images(found: Survey) -> None:
    assert (found.images, len(found.seen), found.bad) == (8, 8, 0)
    assert np.isclose(found.shares.sum(), 1)
    assert np.allclose(found.contact.sum(1), 1)
    assert np.allclose(np.diag(found.contact), 0)


def test_what_is_shown_is_ranked(found: Survey) -> None:
    for cluster in range(3):
        sure = [one.patches.sure[cluster] for one in found.typical(cluster, 3)]
        margins = [one.patches.margin[cluster] for one in found.borderline(cluster, 3)]
        shares = [one.shares[cluster] for one in found.largest(cluster, 8)]
        assert sure == sorted((one.patches.sure[cluster] for one in found.seen), reverse=True)[:3]
        assert margins == sorted(one.patches.margin[cluster] for one in found.seen)[:3]
        assert shares == sorted(shares, reverse=True)
        assert min(shares) > 0


def test_examples_lie_as_far_apart_as_they_can() -> None:
    codes = np.array([[0.0, 0], [0.1, 0], [0, 0.1], [5, 0], [0, 7], [0.1, 0.1]])
    chosen = spread_codes(codes, 3).tolist()
    assert {3, 4} < set(chosen)
    assert len(spread_codes(codes, 99)) == 6
    assert len(spread_codes(np.ones((4, 2)), 3)) == 1


def test_merged_clusters_are_seen_apart(found: Survey, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.symlink_to(model)
    about = read_description(model)
    tree = about.names.tree()
    tree[1]["merge_into"] = 0
    named = about.model_copy(update={"names": Names.of_tree(tree, "test")})
    write_description(named, model)
    try:
        again = survey_images(folder, str(photos(tmp_path / "photos", 8)))
    finally:
        write_description(about, model)
    assert again.description.names.clusters[1].merge_into == 0
    assert np.array_equal(again.shares, found.shares)


def test_images_of_more_than_8_bits_are_seen_as_the_model_sees_them(
    model: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(model, tmp_path / "model"))
    about = read_description(own)
    sight = Sight(scaling=Scaling(low=(0, 0, 0), high=(255 * 16,) * 3, words="12-bit"))
    shown = about.preprocessing.model_copy(update={"sight": sight})
    write_description(about.model_copy(update={"preprocessing": shown}), own)
    plain, deep = tmp_path / "plain", tmp_path / "deep"
    for place in (plain, deep):
        place.mkdir()
    for number in range(3):
        grey = tiny.picture(number, (48, 64))[0][..., 0]
        Image.fromarray(grey).save(plain / f"{number}.png")
        Image.fromarray(grey.astype(np.uint16) * 16).save(deep / f"{number}.png")
    one, other = survey_images(own, str(plain)), survey_images(own, str(deep))
    assert (len(other.seen), other.bad) == (3, 0)
    assert all(np.array_equal(a.small, b.small) for a, b in zip(one.seen, other.seen, strict=True))


def test_few_of_many_are_looked_at_and_broken_ones_counted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "MOST", 3)
    place = photos(tmp_path / "photos", 6)
    (place / "a" / "1.png").write_text("no image")
    told: list[tuple[int, int, int]] = []
    found = survey_images(model, str(place), on_progress=lambda *how: told.append(how))
    assert (found.images, found.bad) == (6, 1)
    assert [one.name for one in found.seen] == ["a/5.png", "b c/2.png"]
    assert told == [(0, 0, 3), (1, 1, 3), (2, 1, 3)]


def test_nothing_to_look_at_is_a_line(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UserError, match=r"none can be used; the first, a\.png: "):
        survey_images(model, str(tmp_path))
