from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from usseg_ray.core.config import BackboneConfig, JitterConfig
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.types import FeatureMap, Images, Needs, Rows, Step
from usseg_ray.core.views import Crops, FixedView, Frame
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.featuriser import Featuriser
from usseg_ray.ops.photometric import photometric_views

CPU = torch.device("cpu")
VIT = "vit_tiny_patch16_224"
TINY: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 3, "num_classes": 0}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> BackboneConfig:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(VIT, dynamic_img_size=True, **TINY)
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(model.state_dict(), path)
    return BackboneConfig(name=VIT, weights=str(path), timm_args=TINY)


def pixels(*shape: int) -> Tensor:
    draws = torch.rand(*(shape or (2, 3, 64, 96)), generator=shared_generator("pixels", *shape))
    return (draws * 255).to(torch.uint8)


def images() -> Images:
    return Images(("a", "b"), pixels())


def test_it_scales_pixels_and_keeps_names() -> None:
    backbone = build_backbone(BackboneConfig(name="textons"))
    batch = Featuriser(backbone, Needs(), torch.device("cpu"), autocast=False)(images())
    assert batch.ids == ("a", "b")
    assert torch.equal(batch.pixels, images().pixels.float() / 255)
    assert torch.equal(batch.features.tokens, backbone(batch.pixels).tokens)


def rows(count: int) -> Rows:
    return Rows(
        "train", FixedView.of(Frame(64)), torch.arange(count), torch.zeros(count, dtype=torch.long)
    )


def test_what_may_be_stored_has_the_stores_precision(vit: BackboneConfig) -> None:
    backbone = build_backbone(vit)
    needs = Needs(attention="cls", local_attention=True)
    shown = replace(images(), rows=rows(2))
    features = Featuriser(backbone, needs, CPU, autocast=False)(shown).features
    with torch.no_grad():
        exact = backbone(backbone.normalise(shown.pixels.float() / 255), needs)
    for name in ("tokens", "saliency", "local"):
        found, computed = getattr(features, name), getattr(exact, name)
        assert not torch.equal(found, computed)
        assert torch.equal(found, computed.half().float())


def test_what_float16_cannot_hold_is_left_as_it_is() -> None:
    class Loud(torch.nn.Module):
        def forward(self, pixels: Tensor, needs: Needs) -> FeatureMap:  # noqa: ARG002
            return FeatureMap(pixels[:, :2] * 1e6 + 1)

        def normalise(self, pixels: Tensor) -> Tensor:
            return pixels

    shown = Images(("a",), torch.tensor([[[[0]], [[200]], [[0]]]], dtype=torch.uint8), rows=rows(1))
    features = Featuriser(Loud(), Needs(), CPU, autocast=False)(shown).features  # type: ignore[arg-type]
    assert features.tokens.flatten().tolist() == pytest.approx([1, 200 / 255 * 1e6 + 1])


def test_no_backbone_is_needed_for_pixels_alone() -> None:
    needs = Needs(features=False)
    batch = Featuriser(None, needs, torch.device("cpu"), autocast=False)(images())
    assert batch.features.tokens.numel() == 0


@pytest.mark.parametrize("autocast", [False, True])
def test_it_gives_float32_and_saliency(vit: BackboneConfig, autocast: bool) -> None:
    backbone = build_backbone(vit)
    featurise = Featuriser(backbone, Needs(attention="cls"), torch.device("cpu"), autocast=autocast)
    features = featurise(images()).features
    assert features.saliency is not None
    assert features.tokens.dtype == features.saliency.dtype == torch.float32
    exact = backbone(backbone.normalise(images().pixels.float() / 255)).tokens
    assert torch.equal(features.tokens, exact) != autocast
    torch.testing.assert_close(features.tokens, exact, rtol=0.2, atol=0.2)


def test_what_goes_into_a_block_is_computed_whatever_is_stored(vit: BackboneConfig) -> None:
    needs, shown = Needs(block_input=True), replace(images(), rows=rows(2))
    featurise = Featuriser(build_backbone(vit), needs, CPU, autocast=False, stored=Finder())
    for batch in (featurise(shown), featurise.variant(shown, rows(2), "again")):
        assert batch.features.block_input is not None
        assert batch.features.block_input.tokens.shape[:2] == (
            2,
            1 + batch.features.tokens[0, 0].numel(),
        )


def textons(needs: Needs) -> Featuriser:
    backbone = build_backbone(BackboneConfig(name="textons"))
    return Featuriser(backbone, needs, CPU, autocast=False, seed=3)


def test_a_photometric_view_is_keyed_by_stage_step_and_image() -> None:
    jitter = JitterConfig()
    featurise = textons(Needs(photometric=jitter))
    batch = featurise.training(images(), "train", Step(5, 10, 1))
    assert batch.step == Step(5, 10, 1)
    view = photometric_views(batch.pixels, batch.ids, jitter, 3, "photometric", "train", 5)
    assert batch.augmented is not None
    assert featurise.backbone is not None
    assert torch.equal(batch.augmented.tokens, featurise.backbone(view).tokens)
    assert torch.equal(batch.features.tokens, featurise(images()).features.tokens)
    other = featurise.training(images(), "train", Step(6, 10, 2)).augmented
    assert other is not None
    assert not torch.equal(other.tokens, batch.augmented.tokens)
    assert featurise(images()).augmented is None


def test_positives_are_featurised_like_their_images() -> None:
    featurise = textons(Needs(neighbours=7))
    positive = pixels(2, 3, 64, 96).flip(3)
    batch = featurise.training(replace(images(), positive=positive), "train", Step())
    assert batch.positive is not None
    expected = featurise(Images(("c", "d"), positive)).features.tokens
    assert torch.equal(batch.positive.tokens, expected)


def test_a_pair_goes_along_with_its_geometry() -> None:
    featurise = Featuriser(None, Needs(features=False, pair=JitterConfig()), CPU, autocast=False)
    geometry = torch.tensor([[0.5, 0.1, 0.2, 1.0], [1.0, 0.3, 0.4, 0.0]], dtype=torch.float64)
    given = replace(images(), first=pixels(2, 3, 128, 192), geometry=geometry)
    for batch in (featurise.training(given, "train", Step()), featurise.crops(given)):
        assert batch.pair is not None
        assert batch.pair.first.shape == (2, 3, 128, 192)
        assert torch.equal(batch.pair.second, batch.pixels)
        assert torch.equal(batch.pair.crop, geometry[:, :3])
        assert batch.pair.flip.tolist() == [True, False]
    assert featurise(images()).pair is None


def test_crop_tokens_are_cls_tokens_of_resized_boxes(vit: BackboneConfig) -> None:
    backbone = build_backbone(vit)
    needs = Needs(crop_tokens=True)
    batch = Featuriser(backbone, needs, CPU, autocast=False, crop_size=32)(images())
    assert batch.crop_tokens is not None
    boxes = torch.tensor([[0, 0, 0, 32, 48], [1, 10, 4, 90, 64]] * 20)
    tokens = batch.crop_tokens(boxes)
    assert tokens.shape == (40, 24)
    for (image, left, top, right, bottom), token in zip(boxes[:2].tolist(), tokens, strict=False):
        crop = backbone.normalise(batch.pixels[image : image + 1])[:, :, top:bottom, left:right]
        resized = interpolate(crop, size=(32, 32), mode="bilinear", antialias=True)
        torch.testing.assert_close(token, backbone.cls_tokens(resized)[0], rtol=1e-4, atol=1e-5)
    assert textons(Needs())(images()).crop_tokens is None


WHOLE, FIVE = FixedView.of(Frame(64)), FixedView.of(Frame(64), Crops("five"))


class Finder:
    """Has features of the training split's frames and crops, and two draws of the crops' views."""

    views = frozenset(
        {("train", WHOLE), ("train", FIVE), ("train", FIVE.recoloured(2, JitterConfig()))}
    )

    def __call__(self, rows: Rows, needs: Needs) -> FeatureMap | None:
        raise AssertionError((rows, needs))

    def begin(self, rows: Rows, needs: Needs) -> Callable[[], FeatureMap] | None:
        raise AssertionError((rows, needs))

    def variant(self, rows: Any, needs: Any, name: str, compute: Any) -> FeatureMap:
        raise AssertionError((rows, needs, name, compute))


@pytest.mark.parametrize(
    ("needs", "view_draws", "expected"),
    [
        (Needs(), 0, {WHOLE, FIVE}),
        (Needs(photometric=JitterConfig()), 2, {WHOLE, FIVE}),
        (Needs(photometric=JitterConfig()), 3, {WHOLE}),
        (Needs(photometric=JitterConfig()), 0, {WHOLE}),
        (Needs(photometric=JitterConfig(blur=0)), 2, {WHOLE}),
        (Needs(crop_tokens=True), 0, set()),
        (Needs(block_input=True), 0, set()),
        (Needs(features=False), 0, set()),
    ],
)
def test_nobody_needs_pixels_of_which_all_that_is_asked_for_is_stored(
    needs: Needs, view_draws: int, expected: set[FixedView]
) -> None:
    stored = Featuriser(None, needs, CPU, autocast=False, stored=Finder(), view_draws=view_draws)
    found = {view for split, view in stored.without_pixels if split == "train" and not view.draws}
    assert found == expected
    plain = Featuriser(None, needs, CPU, autocast=False, view_draws=view_draws)
    assert plain.without_pixels == frozenset()
