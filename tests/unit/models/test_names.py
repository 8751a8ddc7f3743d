"""Names of clusters: as written by people, and on label maps."""

from pathlib import Path

import numpy as np
import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.models.names import Name, Names

GIVEN = """
0: {name: road, colour: "#804080"}
2: {name: dépôt, merge_into: 0}
3: {name: dirt, ignore: true}
"""


@pytest.fixture
def names(tmp_path: Path) -> Names:
    path = tmp_path / "names.yaml"
    path.write_text(GIVEN, "utf-8")
    return Names.read(path, Names.default(5))


def test_a_file_may_name_some_clusters(names: Names) -> None:
    called = [name.name for name in names.clusters]
    assert called == ["road", "cluster 1", "dépôt", "dirt", "cluster 4"]
    assert names.clusters[0].colour == "#804080"
    assert names.clusters[1].colour == Names.default(5).clusters[1].colour


def test_what_is_written_is_read_again(names: Names, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(names.text(), "utf-8")
    assert Names.read(path) == names


def test_merged_and_ignored_clusters_leave_label_maps(names: Names) -> None:
    assert names.apply(np.arange(5)).tolist() == [0, 1, 0, 255, 4]
    assert names.outputs == (0, 1, 4)
    chain = Names.default(4).tree()
    chain[3]["merge_into"], chain[2]["merge_into"], chain[1]["ignore"] = 2, 1, True
    assert Names.of_tree(chain, "here").final.tolist() == [0, 255, 255, 255]


def test_many_clusters_are_not_taken_for_ignored_ones() -> None:
    tree = Names.default(300).tree()
    tree[0]["ignore"] = True
    names = Names.of_tree(tree, "here")
    assert names.apply(np.array([0, 255])).tolist() == [65535, 255]
    assert names.palette.shape == (300, 3)


def test_default_colours_differ_and_follow_a_palette() -> None:
    assert len({name.colour for name in Names.default(30).clusters}) == 30
    given = Names.default(2, ((1, 2, 3), (255, 0, 16)))
    assert [name.colour for name in given.clusters] == ["#010203", "#ff0010"]
    assert given.palette[1].tolist() == [255, 0, 16]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- road", "expected lines such as 0:"),
        ("5: {name: road}", "cluster 5: they are numbered 0 to 4"),
        ("a: {name: road}", "cluster 'a': they are numbered"),
        ("0: road", "0: expected keys such as"),
        ("0: {nam: road}", "0: nam: Extra inputs"),
        ("0: {name: road, colour: #804080\n}", "Colours are written in quotes"),
        ("0: {colour: purple}", 'Colours are written in quotes, "#804080"'),
        ("0: {merge_into: 7}", "Cluster 0 is to be merged into 7"),
        ("0: {merge_into: 1}\n1: {merge_into: 0}", "merged round a loop"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError, match=said) as error:
        Names.read(path, Names.default(5))
    assert "\n" not in str(error.value)


def test_a_file_alone_names_every_cluster(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Names.read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cluster 1: they are numbered 0 to 0"):
        Names.of_tree({1: {"name": "a", "colour": "#000000"}}, "here")
    assert Names.of_tree({0: {"name": "a", "colour": "#000000"}}, "here").clusters == (
        Name(name="a", colour="#000000"),
    )


def test_probabilities_count_for_what_a_cluster_is_merged_into() -> None:
    tree = Names.default(5).tree()
    tree[0]["merge_into"], tree[1]["merge_into"] = 1, 2
    tree[3] |= {"merge_into": 2, "ignore": True}
    tree[4]["ignore"] = True
    names = Names.of_tree(tree, "test")
    # What is left out itself is no part of what is not.
    assert names.groups.tolist() == [2, 2, 2, 3, 4]
    assert names.final.tolist() == [2, 2, 2, 255, 255]
