from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from usseg_ray.core.config import Attention, BackboneConfig, DataConfig
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import FeatureMap, Needs
from usseg_ray.features.backbones import (
    Backbone,
    TimmFeatures,
    backbones_kept,
    build_backbone,
    check_image_sizes,
    feature_spec,
)
from usseg_ray.features.textons import Textons
from usseg_ray.ops.attention import local_weights

TINY_VIT: dict[str, Any] = {"depth": 3, "embed_dim": 24, "num_heads": 3, "num_classes": 0}
VIT, CNN = "vit_tiny_patch16_224", "resnet18"
REGISTERS = "vit_small_patch14_reg4_dinov2"


def random_model(name: str, **args: Any) -> nn.Module:
    """Makes a model whose every value is random, batch norm's statistics included."""
    model: nn.Module = timm.create_model(name, pretrained=False, **args)
    generator = shared_generator("weights", name)
    for value in [*model.parameters(), *model.buffers()]:
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.data.copy_(0.5 + noise if value.ndim < 2 else 0.2 * (noise - 0.5))
    return model.eval()


def saved(model: nn.Module, path: Path) -> str:
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, BackboneConfig]:
    model = random_model(VIT, dynamic_img_size=True, **TINY_VIT)
    path = saved(model, tmp_path_factory.mktemp("vit") / "vit.safetensors")
    return model, BackboneConfig(name=VIT, weights=path, timm_args=TINY_VIT)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, BackboneConfig]:
    model = random_model(CNN)
    path = saved(model, tmp_path_factory.mktemp("cnn") / "cnn.safetensors")
    return model, BackboneConfig(name=CNN, weights=path)


def pixels(height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(2, 3, height, width, generator=shared_generator("pixels"))


def normalised(model: nn.Module, images: Tensor) -> Tensor:
    cfg: Any = model.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


def seen(backbone: Backbone, images: Tensor, needs: Needs | None = None) -> FeatureMap:
    features: FeatureMap = backbone(backbone.normalise(images), needs or Needs())
    return features


@torch.no_grad()
def test_vit_tokens_are_its_normed_patch_tokens(vit: tuple[Any, BackboneConfig]) -> None:
    model, config = vit
    backbone = build_backbone(config)
    found = seen(backbone, pixels()).tokens
    expected = model.forward_features(normalised(model, pixels()))[:, 1:]
    assert found.shape == (2, 24, 4, 6)
    torch.testing.assert_close(found.flatten(2).mT, expected, rtol=1e-5, atol=1e-5)
    assert (backbone.spec.dim, backbone.spec.patch_size) == (24, 16)
    assert backbone.spec.has_attention


def test_a_backbone_is_frozen(vit: tuple[Any, BackboneConfig]) -> None:
    backbone = build_backbone(vit[1])
    assert not backbone.training
    assert list(backbone.parameters())
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("layer", [0, 1])
@torch.no_grad()
def test_an_earlier_block_is_read(vit: tuple[Any, BackboneConfig], layer: int) -> None:
    _, config = vit
    early = build_backbone(config.model_copy(update={"layer": layer}))
    last = build_backbone(config)
    assert seen(early, pixels()).tokens.shape == seen(last, pixels()).tokens.shape
    assert not torch.allclose(seen(early, pixels()).tokens, seen(last, pixels()).tokens)


@pytest.mark.parametrize("layer", [None, 0, 2, 4])
@torch.no_grad()
def test_cnn_features_are_timms(cnn: tuple[Any, BackboneConfig], layer: int | None) -> None:
    model, config = cnn
    backbone = build_backbone(config.model_copy(update={"layer": layer}))
    index = 4 if layer is None else layer
    reference = timm.create_model(CNN, features_only=True, out_indices=[index])
    reference.load_state_dict(model.state_dict(), strict=False)
    (expected,) = reference.eval()(normalised(model, pixels()))
    found = seen(backbone, pixels()).tokens
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert backbone.spec.dim == found.shape[1]
    assert backbone.spec.patch_size == 64 // found.shape[2] == 2 ** (index + 1)
    assert not backbone.spec.has_attention


def attention_by_hand(model: Any, images: Tensor) -> Tensor:
    """Lets timm compute the last block's attention step by step and catches it there."""
    module, caught = model.blocks[-1].attn, []
    module.fused_attn = False
    handle = module.attn_drop.register_forward_hook(lambda _m, inputs, _o: caught.append(inputs[0]))
    model.forward_features(normalised(model, images))
    handle.remove()
    weights: Tensor = caught[0]
    return weights


@pytest.mark.parametrize("name", [VIT, REGISTERS])
@torch.no_grad()
def test_saliency_against_loops(name: str, tmp_path: Path) -> None:
    args = TINY_VIT | ({"img_size": 56} if name == REGISTERS else {})
    model: Any = random_model(name, dynamic_img_size=True, **args)
    config = BackboneConfig(
        name=name, weights=saved(model, tmp_path / "m.safetensors"), timm_args=args
    )
    backbone = build_backbone(config)
    images = pixels(56, 84) if name == REGISTERS else pixels()
    weights, prefix = attention_by_hand(model, images), model.num_prefix_tokens
    size, heads, tokens, _ = weights.shape
    cls = torch.zeros(size, tokens - prefix)
    least = torch.zeros(size, tokens - prefix)
    for b in range(size):
        for patch in range(prefix, tokens):
            column = weights[b, :, :, patch]
            cls[b, patch - prefix] = sum(column[h, 0] for h in range(heads)) / heads
            queries = [0, *range(prefix, tokens)]
            least[b, patch - prefix] = sum(column[:, q].min() for q in queries)
    expectations: list[tuple[Attention, Tensor]] = [("cls", cls), ("minhead", least)]
    for wanted, expected in expectations:
        found = seen(backbone, images, Needs(attention=wanted))
        assert found.saliency is not None
        assert found.saliency.shape == found.tokens[:, 0].shape
        torch.testing.assert_close(found.saliency.flatten(1), expected, rtol=1e-4, atol=1e-6)
    assert backbone(images).saliency is None


def test_a_cnn_has_no_saliency(cnn: tuple[Any, BackboneConfig]) -> None:
    assert seen(build_backbone(cnn[1]), pixels(), Needs(attention="cls")).saliency is None


@pytest.mark.parametrize("name", [VIT, REGISTERS])
@torch.no_grad()
def test_local_attention_and_cls_tokens(name: str, tmp_path: Path) -> None:
    args = TINY_VIT | ({"img_size": 56} if name == REGISTERS else {})
    model: Any = random_model(name, dynamic_img_size=True, **args)
    config = BackboneConfig(
        name=name, weights=saved(model, tmp_path / "m.safetensors"), timm_args=args
    )
    backbone = build_backbone(config)
    images = pixels(56, 84) if name == REGISTERS else pixels()
    weights, prefix = attention_by_hand(model, images), model.num_prefix_tokens
    found = seen(backbone, images, Needs(local_attention=True))
    height, width = found.tokens.shape[-2:]
    # A softmax knows its logits up to a constant, and so do the weights that follow from them.
    logits = weights[:, :, prefix:, prefix:].log()
    logits = logits - logits.mean(-1, keepdim=True)
    assert found.local is not None
    assert found.saliency is None
    assert found.local.shape == (2, 9, height, width)
    torch.testing.assert_close(
        found.local, local_weights(logits.mean(1), height, width), rtol=1e-3, atol=1e-4
    )
    cls = model.forward_features(normalised(model, images))[:, 0]
    assert isinstance(backbone, TimmFeatures)
    found_cls = backbone.cls_tokens(backbone.normalise(images))
    torch.testing.assert_close(found_cls, cls, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_own_normalisation(vit: tuple[Any, BackboneConfig]) -> None:
    model, config = vit
    own = config.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)})
    mean, std = torch.tensor(own.mean).view(3, 1, 1), torch.tensor(own.std).view(3, 1, 1)
    expected = model.forward_features((pixels() - mean) / std)[:, 1:]
    found = seen(build_backbone(own), pixels()).tokens.flatten(2).mT
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_that_do_not_fit_name_keys_and_where_arguments_go(
    cnn: tuple[Any, BackboneConfig],
) -> None:
    config = cnn[1].model_copy(update={"timm_args": {"num_classes": 7}})
    with pytest.raises(UserError, match=r"does not fit resnet18.*fc\.weight.*backbone\.timm_args"):
        build_backbone(config)


def test_missing_and_foreign_keys_are_named(tmp_path: Path) -> None:
    state = dict(random_model(CNN).state_dict())
    state["extra.weight"] = state.pop("conv1.weight")
    path = tmp_path / "other.safetensors"
    save_file(state, path)
    with pytest.raises(UserError, match=r"conv1\.weight.*extra\.weight"):
        build_backbone(BackboneConfig(name=CNN, weights=str(path)))


def test_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(random_model(CNN).state_dict(), path)
    with pytest.raises(UserError, match=r"only \.safetensors files are read"):
        build_backbone(BackboneConfig(name=CNN, weights=str(path)))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    missing = BackboneConfig(name=CNN, weights=str(tmp_path / "absent.safetensors"))
    with pytest.raises(UserError, match=r"absent\.safetensors: no such file"):
        build_backbone(missing)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="does not fit resnet18"):
        build_backbone(BackboneConfig(name=CNN, weights=str(broken)))


def test_an_unknown_model_with_a_file(tmp_path: Path) -> None:
    path = saved(random_model(CNN), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"backbone\.name = 'resnet81'"):
        build_backbone(BackboneConfig(name="resnet81", weights=path))


@pytest.mark.parametrize("layer", [-1, 5, 99])
def test_layers_out_of_range(cnn: tuple[Any, BackboneConfig], layer: int) -> None:
    with pytest.raises(UserError, match=f"layer = {layer}: resnet18 has layers 0 to 4"):
        build_backbone(cnn[1].model_copy(update={"layer": layer}))


def test_arguments_that_timm_does_not_know(cnn: tuple[Any, BackboneConfig]) -> None:
    with pytest.raises(UserError, match="no_such_argument"):
        build_backbone(cnn[1].model_copy(update={"timm_args": {"no_such_argument": 1}}))


@pytest.mark.parametrize("name", ["mobilevit_xxs", "deit_tiny_patch16_224"])
def test_names_that_look_like_a_vits(name: str) -> None:
    """Whether a model takes other image sizes is not in its name."""
    backbone = TimmFeatures(BackboneConfig(name=name), pretrained=False).eval()
    size = backbone.spec.patch_size * 3
    with torch.no_grad():
        tokens = backbone(torch.rand(1, 3, size, size)).tokens
    assert tokens.shape == (1, backbone.spec.dim, 3, 3)


@torch.no_grad()
def test_textons_are_a_backbone() -> None:
    backbone = build_backbone(BackboneConfig(name="textons", patch_size=4, position_weight=0.5))
    bank = Textons(patch_size=4, position_weight=0.5)
    found = seen(backbone, pixels(), Needs(attention="cls"))
    assert torch.equal(found.tokens, bank(pixels()))
    assert found.saliency is None
    assert (backbone.spec.dim, backbone.spec.patch_size) == (bank.dim, 4)
    assert not backbone.spec.has_attention


def test_attention_is_offered_only_where_it_is_computed_as_the_model_does() -> None:
    def offered(name: str, **timm_args: object) -> bool:
        config = BackboneConfig(name=name, timm_args=timm_args)
        return TimmFeatures(config, pretrained=False).spec.has_attention

    assert offered("vit_tiny_patch16_224")
    assert not offered("vit_tiny_patch16_224", class_token=False, global_pool="avg")
    assert offered("eva02_tiny_patch14_224")
    # Queries share keys there, in a form that is not read.
    assert not offered("vit_pe_spatial_tiny_patch16_512")


@pytest.mark.parametrize(
    ("sizes", "patch", "near"),
    [
        ({"train_size": 100}, 16, "data.train_size=96"),
        ({"eval_size": 450}, 14, "data.eval_size=448"),
        ({"train_size": 8, "eval_size": 32}, 32, "data.train_size=32"),
    ],
)
def test_sizes_that_patches_do_not_tile(sizes: dict[str, int], patch: int, near: str) -> None:
    data = DataConfig.model_validate({"train_size": patch * 4, "eval_size": patch * 4} | sizes)
    with pytest.raises(UserError, match=f"multiple of the backbone's patch of {patch} pixels") as e:
        check_image_sizes(data, patch)
    assert near in str(e.value)
    key, value = near.removeprefix("data.").split("=")
    check_image_sizes(data.model_copy(update={key: int(value)}), patch)


@pytest.mark.parametrize(("name", "patch"), [("vit_tiny_patch16_224", 16), ("resnet18", 32)])
def test_a_spec_needs_no_weights(name: str, patch: int) -> None:
    data = DataConfig(train_size=96, eval_size=160)
    spec = feature_spec(BackboneConfig(name=name), data)
    whole = TimmFeatures(BackboneConfig(name=name), pretrained=False).spec
    assert (spec.dim, spec.patch_size, spec.has_attention) == (whole.dim, patch, "vit" in name)
    assert (spec.grid, spec.eval_grid) == (96 // patch, 160 // patch)
    with pytest.raises(UserError, match=r"data\.eval_size = 100 is no multiple"):
        feature_spec(BackboneConfig(name=name), data.model_copy(update={"eval_size": 100}))


def test_backbones_are_kept_while_a_block_lasts(cnn: tuple[Any, BackboneConfig]) -> None:
    _, config = cnn
    other = config.model_copy(update={"layer": 1})
    with backbones_kept():
        one = build_backbone(config)
        assert build_backbone(config.model_copy()) is one
        assert build_backbone(other) is not one
    assert build_backbone(config) is not build_backbone(config)
