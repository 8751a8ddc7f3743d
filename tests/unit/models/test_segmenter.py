"""A model at work: images in, label maps with names, confidence and probabilities out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tests import tiny
from tests.anyup import named
from tests.unit.models.conftest import kept
from usseg_ray.core.errors import UserError
from usseg_ray.core.records import DamagedError
from usseg_ray.models.description import BackboneNote, read_description, write_description
from usseg_ray.models.folder import read_model, save_model
from usseg_ray.models.names import Name, Names
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.scoring.anyup_file import VARIABLE
from usseg_ray.scoring.protocols import Refinement

IMAGE = tiny.picture(5)[0]
TALL = tiny.picture(6, (80, 48))[0]


@pytest.fixture(scope="module")
def opened(model: Path) -> Segmenter:
    return Segmenter.open(model, torch.device("cpu"))


def test_a_label_map_has_the_size_of_its_image(opened: Segmenter) -> None:
    found = opened.segment(TALL, scores=True)
    assert found.mask.shape == found.confidence.shape == (80, 48)
    assert found.mask.dtype == np.int64
    assert 1 < len(np.unique(found.mask)) <= opened.num_clusters == 3
    assert found.scores is not None
    assert found.scores.shape == (3, 80, 48)
    assert np.array_equal(found.scores.argmax(0), found.mask)
    assert np.allclose(found.scores.sum(0), 1, atol=1e-5)
    assert np.allclose(found.scores.max(0), found.confidence, atol=1e-5)
    assert opened.segment(TALL).scores is None


def test_it_finds_what_the_run_found(opened: Segmenter) -> None:
    label = tiny.picture(5)[1]
    mask, inside = opened.segment(IMAGE).mask, label != tiny.IGNORE
    pairs = {(int(c), int(m)) for c, m in zip(label[inside], mask[inside], strict=True)}
    shares = [np.mean([pair[0] == c for pair in pairs]) for c in range(3)]
    assert len(pairs) < 9
    assert min(shares) > 0


def test_names_are_applied_and_saved(opened: Segmenter, model: Path, tmp_path: Path) -> None:
    plain = opened.segment(IMAGE, scores=True)
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    about = read_description(folder)
    named = Names(
        (
            Name(name="a", colour="#112233"),
            Name(name="b", colour="#445566", merge_into=0),
            Name(name="c", colour="#778899", ignore=True),
        )
    )
    write_description(about.model_copy(update={"names": named}), folder)
    segmenter = Segmenter.open(folder, torch.device("cpu"))
    found = segmenter.segment(IMAGE, scores=True)
    assert plain.scores is not None
    assert found.scores is not None
    both = plain.scores[0] + plain.scores[1]
    clear = np.abs(both - plain.scores[2]) > 0.1
    expected = np.where(both > plain.scores[2], 0, 255)
    assert clear.mean() > 0.5
    assert np.array_equal(found.mask[clear], expected[clear])
    # A merged cluster's probability counts for the one that it is a part of.
    assert np.allclose(found.scores[0], both, atol=0.03)
    assert np.allclose(found.scores[2], plain.scores[2], atol=0.03)
    assert not found.scores[1].any()
    assert np.allclose(found.scores.max(0), found.confidence, atol=1e-5)
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (3, 4, 5)))
    parts = logits.softmax(0)
    assert torch.allclose(
        segmenter.join(logits).softmax(0), torch.stack([parts[0] + parts[1], parts[2]])
    )
    found.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), found.mask)
        assert np.asarray(picture.convert("RGB"))[found.mask == 0][0].tolist() == [0x11, 0x22, 0x33]


def test_probabilities_are_of_images_as_they_are(opened: Segmenter) -> None:
    batch = np.stack([tiny.picture(number)[0] for number in range(3)])
    found = opened.probabilities(batch)
    assert found.shape == (3, 3, 4, 4)
    assert torch.allclose(found.sum(1), torch.ones(3, 4, 4))
    assert torch.allclose(found[1:2], opened.probabilities(batch[1:2]), atol=1e-6)


@pytest.mark.parametrize("refiners", ["flip", "guided", "flip+guided", "crf", "flip+anyup"])
def test_refiners_change_all_that_is_found(
    opened: Segmenter, refiners: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, named(tmp_path / "anyup.safetensors"))
    refined = Segmenter(opened.description, opened.model, Refinement.parse(refiners))
    plain, found = opened.segment(TALL, scores=True), refined.segment(TALL, scores=True)
    assert plain.confidence.shape == found.confidence.shape
    assert not np.array_equal(plain.confidence, found.confidence)
    assert found.scores is not None
    assert np.allclose(found.scores.sum(0), 1, atol=1e-5)
    assert np.allclose(found.scores.max(0), found.confidence, atol=1e-5)


def test_a_network_of_its_own_needs_nothing_to_start_from(tmp_path: Path) -> None:
    folder = kept(tmp_path, "picie", train__epochs=1)
    about, state = read_model(folder)
    # As of a run that began with timm's weights, which this machine need not have.
    settings = about.config | {"method.network.pretrained": True}
    save_model(folder, about.model_copy(update={"config": settings}), state)
    assert Segmenter.open(folder, torch.device("cpu")).segment(IMAGE).mask.shape == (32, 32)
    assert about.backbone.name == "none"


NETWORK = {
    # The smallest ViT of timm, with weights that a test draws.
    "backbone__name": "test_vit",
    "backbone__layer": None,
    "data__eval_size": 32,
}


def drawn(folder: Path, seed: int) -> Path:
    """Draws weights of a network."""
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    weights = timm.create_model("test_vit", pretrained=False).state_dict()
    save_file(weights, folder / f"{seed}.safetensors")
    return folder / f"{seed}.safetensors"


def test_backbone_weights_travel_with_a_model_and_no_others_are_taken(tmp_path: Path) -> None:
    weights = drawn(tmp_path / "drawn", 0)
    folder = kept(tmp_path, "kmeans", weights, **NETWORK)
    weights.unlink()
    assert Segmenter.open(folder, torch.device("cpu")).segment(IMAGE).mask.shape == (32, 32)
    assert "drawn" not in (folder / "model.yaml").read_text()
    shutil.copyfile(drawn(tmp_path / "drawn", 1), folder / "backbone.safetensors")
    with pytest.raises(DamagedError, match="not the backbone weights that the model"):
        Segmenter.open(folder, torch.device("cpu"))
    (folder / "backbone.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"backbone\.safetensors, the weights .* is missing"):
        Segmenter.open(folder, torch.device("cpu"))


def test_a_trained_block_is_in_the_model_and_what_is_before_it_is_not(tmp_path: Path) -> None:
    weights = drawn(tmp_path / "drawn", 0)
    settings = {**NETWORK, "method__block": "copy", "train__epochs": 1}
    folder = kept(tmp_path, "ppap", weights, **settings)
    weights.unlink()
    names = read_model(folder)[1].keys()
    assert "block.block.attn.qkv.weight" in names
    assert not any("patch_embed" in name for name in names)
    assert Segmenter.open(folder, torch.device("cpu")).segment(IMAGE).mask.shape == (32, 32)


def test_weights_that_are_out_of_reach_are_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    note = BackboneNote(name="vit_small_patch16_224.dino", sha256="ab" * 32)
    about = read_description(folder).model_copy(update={"backbone": note})
    write_description(about, folder)

    def refuse(config: object) -> None:
        raise UserError("out of reach")

    monkeypatch.setattr("usseg_ray.models.segmenter.check_weights", refuse)
    with pytest.raises(UserError, match=r"reads vit_small_.* whose weights are not"):
        Segmenter.open(folder)


def test_weights_of_other_settings_are_refused(model: Path, tmp_path: Path) -> None:
    about, state = read_model(model)
    folder = tmp_path / "model"
    save_model(folder, about, {name: tensor[:1] for name, tensor in state.items()})
    with pytest.raises(DamagedError, match="weights are not of its settings"):
        Segmenter.open(folder, torch.device("cpu"))


def test_images_that_are_seen_at_one_size_are_scored_together(opened: Segmenter) -> None:
    images = [IMAGE, TALL, tiny.picture(7)[0], tiny.picture(8, (160, 96))[0]]
    together = list(opened.segment_each(images, scores=True))
    for image, found in zip(images, together, strict=True):
        alone = opened.segment(image, scores=True)
        assert found.mask.shape == image.shape[:2]
        assert np.mean(found.mask == alone.mask) > 0.999
        assert np.allclose(found.confidence, alone.confidence, atol=1e-4)
        assert found.scores is not None
        assert alone.scores is not None
        assert np.allclose(found.scores, alone.scores, atol=1e-4)
    assert list(opened.segment_each([])) == []


def test_segments_follow_the_image_and_not_the_training(opened: Segmenter, tmp_path: Path) -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48], image[:, 48:] = (250, 20, 20), (20, 20, 250)
    image += np.random.default_rng(0).integers(0, 5, image.shape).astype(np.uint8)
    found = opened.segments(image)
    assert found.shape == (64, 96)
    assert found.dtype == np.uint8
    assert {*np.unique(found)} == {1, 2}
    assert all((part == part[0, 0]).all() for part in (found[:, :36], found[:, 60:]))
    other = Segmenter.open(kept(tmp_path, "stego", train__epochs=1), torch.device("cpu"))
    assert np.array_equal(other.segments(image), found)


def test_without_a_backbone_there_are_no_segments(tmp_path: Path) -> None:
    opened = Segmenter.open(kept(tmp_path, "colour"), torch.device("cpu"))
    with pytest.raises(UserError, match="'colour' reads none"):
        opened.segments(IMAGE)
