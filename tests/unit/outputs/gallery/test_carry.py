"""Names go to the clusters that cover the same pixels, and what is not sure is said."""

import numpy as np
import pytest

from usseg_ray.models.description import BackboneNote, Description, Preprocessing
from usseg_ray.models.names import Names
from usseg_ray.outputs.gallery.carry import carry, overlaps, paired
from usseg_ray.outputs.gallery.seen import GalleryImage, clearest
from usseg_ray.outputs.gallery.survey import Survey


def survey(names: Names, *maps: np.ndarray) -> Survey:
    about = Description(
        method="kmeans",
        num_clusters=len(names),
        config={},
        backbone=BackboneNote(name="textons"),
        preprocessing=Preprocessing(size=32),
        names=names,
    )
    nothing = clearest(np.ones((len(names), 4, 4), np.float32))
    seen = [
        GalleryImage(
            f"{number}",
            np.zeros((*clusters.shape, 3), np.uint8),
            clusters.astype(np.uint16),
            np.zeros(2, np.float32),
            np.zeros(len(names), np.float32),
            nothing,
            np.zeros(clusters.shape, np.uint8),
        )
        for number, clusters in enumerate(maps)
    ]
    return Survey(about, tuple(seen), len(seen), 0)


@pytest.fixture
def named() -> Names:
    tree = Names.default(4).tree()
    tree[0] |= {"name": "road", "colour": "#111111"}
    tree[1] |= {"name": "dirt road", "merge_into": 0}
    tree[2] |= {"name": "sky", "ignore": True}
    tree[3] |= {"name": "bird"}
    return Names.of_tree(tree, "test")


OLD = np.repeat(np.array([0, 0, 1, 2, 2, 2, 2, 3]), 10)[None]


def test_names_follow_their_pixels(named: Names) -> None:
    new = np.repeat(np.array([4, 4, 0, 1, 1, 1, 2, 2]), 10)[None]
    found = carry(survey(named, OLD), survey(Names.default(6), new))
    clusters = found.names.clusters
    assert [one.name for one in clusters] == [
        "dirt road",
        "sky",
        "bird",
        "cluster 3",
        "road",
        "cluster 5",
    ]
    assert clusters[0].merge_into == 4
    assert (clusters[4].colour, clusters[1].ignore) == ("#111111", True)
    assert len({one.colour for one in clusters}) == 6
    pairs = found.pairs
    assert [pair.was for pair in pairs] == [1, 2, 3, None, 0, None]
    assert pairs[1].overlap == pytest.approx(3 / 4)
    assert pairs[1].margin == pytest.approx(3 / 4 - 1 / 5)
    assert pairs[2].margin == pytest.approx(1 / 2 - 1 / 5)
    assert not any(pair.doubtful for pair in pairs)
    assert found.lost == ()
    assert found.lines()[1] == "1: sky (was 2, overlap 0.75, margin 0.55)"
    assert found.lines()[3] == "3: new, no name taken over"


def test_what_may_be_wrong_and_what_is_lost_is_said(named: Names) -> None:
    new = np.repeat(np.array([0, 0, 0, 1, 1, 1, 1, 1]), 10)[None]
    new[0, 30:35] = 0
    found = carry(survey(named, OLD), survey(Names.default(2), new))
    assert [one.name for one in found.names.clusters] == ["road", "sky"]
    assert found.lost == ("dirt road", "bird")
    assert found.lines()[-1] == "Names without a cluster now: dirt road, bird"
    halves = np.array([[0.5, 0.0], [0.45, 0.3]])
    first, second = paired(halves)
    assert (first.was, second.was) == (0, 1)
    assert first.doubtful
    assert second.margin == pytest.approx(0.3 - 0.45)
    assert second.doubtful


def test_only_images_that_both_saw_count(named: Names) -> None:
    other = np.zeros_like(OLD)
    first, second = survey(named, OLD, other), survey(named, OLD)
    assert np.array_equal(overlaps(first, second), np.eye(4))


def test_a_merge_without_its_end_is_none(named: Names) -> None:
    new = np.repeat(np.array([1, 1, 0, 1, 1, 1, 1, 1]), 10)[None]
    found = carry(survey(named, OLD), survey(Names.default(2), new))
    assert found.names.clusters[0].name == "dirt road"
    assert found.names.clusters[0].merge_into is None


def test_a_number_is_no_name() -> None:
    new = np.where(OLD < 3, 2 - OLD, OLD)
    found = carry(survey(Names.default(4), OLD), survey(Names.default(4), new))
    assert [pair.was for pair in found.pairs] == [2, 1, 0, 3]
    assert found.names.clusters[0].name == "cluster 0"
    assert found.names.clusters[0].colour == Names.default(4).clusters[2].colour
