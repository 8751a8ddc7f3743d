"""The model card: the Hub reads its header, people the rest."""

import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from usseg_ray.models.card import CARD_FILE, card
from usseg_ray.models.description import (
    BackboneNote,
    Description,
    read_description,
    write_description,
)
from usseg_ray.models.names import Names


@pytest.fixture
def about(model: Path) -> Description:
    return read_description(model)


def header(text: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_hub_reads_the_header(model: Path) -> None:
    data = ModelCard.load(model / CARD_FILE).data
    assert (data.library_name, data.pipeline_tag) == ("usseg-ray", "image-segmentation")
    assert data.license is None


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("DINOv3 License", {"license": "other", "license_name": "dinov3-license"}),
        ("unknown", {}),
    ],
)
def test_the_licence_of_the_backbone_stands_in_it(
    about: Description, licence: str, expected: dict[str, str]
) -> None:
    note = BackboneNote(name="vit", sha256="ab" * 32, licence=licence, limits="For research.")
    text = card(about.model_copy(update={"backbone": note}))
    assert {k: v for k, v in header(text).items() if k.startswith("license")} == expected
    assert f"weights: {licence}. For research." in text


def test_scores_stand_beside_floors_and_their_protocol(about: Description) -> None:
    text = card(about)
    for said in ("tiny val", "| unsup_miou | 90 |", "baseline colour | 50 |", "`kmeans`"):
        assert said in text
    assert "criteria without them" not in text
    assert about.scores is not None
    criteria = {"label_free.view_information": 0.5}
    bare = about.scores.model_copy(update={"floors": {}, "values": criteria})
    assert "none of them accuracy" in card(about.model_copy(update={"scores": bare}))
    assert "nothing was measured" in card(about.model_copy(update={"scores": None}))


def test_a_card_follows_names_until_somebody_makes_it_theirs(
    about: Description, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    tree = about.names.tree()
    tree[0]["name"], tree[1]["merge_into"] = "sand | <b>\nsea", 0
    named = about.model_copy(update={"names": Names.of_tree(tree, "a test")})
    write_description(named, folder)
    text = (folder / CARD_FILE).read_text()
    assert "| 0 | sand \\| &lt;b> sea | `" in text
    assert "| part of 0 |" in text
    (folder / CARD_FILE).write_text("# Ours\n")
    write_description(about, folder)
    assert (folder / CARD_FILE).read_text() == "# Ours\n"
