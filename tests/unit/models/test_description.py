"""model.yaml: written, read, and refused in a line where it is wrong."""

from pathlib import Path

import pytest
import yaml

from usseg_ray.core.errors import UserError
from usseg_ray.core.records import DamagedError
from usseg_ray.models.description import MODEL_FILE, read_description, write_description


def test_a_description_comes_back(model: Path, tmp_path: Path) -> None:
    about = read_description(model)
    write_description(about, tmp_path)
    assert read_description(tmp_path) == about
    assert about.method == "kmeans"
    assert about.num_clusters == len(about.names) == 3
    assert about.data == "tiny"
    assert about.config["data.name"] == "elsewhere"
    assert about.backbone.licence == "none needed"
    assert about.preprocessing.size == 32
    assert about.scores is not None
    assert about.scores.floors == {"colour": 50.0}
    tree = yaml.safe_load((tmp_path / MODEL_FILE).read_text())
    assert tree["names"][0]["name"] == "cluster 0"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format_version", 2, "format version 2, and this usseg_ray reads 1"),
        ("num_clusters", 9, "3 names for 9 clusters"),
        ("method", None, "method: Input should be"),
        ("names", {0: "road"}, "names: 0: expected keys"),
        ("surplus", 1, "surplus: Extra inputs"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    model: Path, tmp_path: Path, key: str, value: object, said: str
) -> None:
    tree = yaml.safe_load((model / MODEL_FILE).read_text()) | {key: value}
    (tmp_path / MODEL_FILE).write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=said) as error:
        read_description(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "a: [", "\0", "format_version: 1"])
def test_damage_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / MODEL_FILE).write_text(text)
    with pytest.raises(DamagedError, match=MODEL_FILE):
        read_description(tmp_path)


def test_a_folder_without_one_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model \(model.yaml is not in it\)"):
        read_description(tmp_path)
