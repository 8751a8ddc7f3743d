import pytest
import torch
from torch import Tensor

from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.errors import UserError
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.normalisation import TokenNormalisation, check_measured, measurements

MEAN, STD = (1.0, -2.0), (2.0, 0.5)


def normalised(tokens: Tensor, how: str) -> Tensor:
    config = BackboneConfig.model_validate({"normalise": how, "token_mean": MEAN, "token_std": STD})
    found: Tensor = TokenNormalisation(config, 2)(tokens)
    return found


def test_tokens_lose_their_mean_and_their_spread_as_asked() -> None:
    tokens = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).view(2, 2, 1, 1)
    assert torch.equal(normalised(tokens, "raw"), tokens)
    centred = torch.tensor([[2.0, 6.0], [0.0, 2.0]]).view(2, 2, 1, 1)
    assert torch.equal(normalised(tokens, "centred"), centred)
    assert torch.equal(normalised(tokens, "standardised").flatten(), torch.tensor([1.0, 12, 0, 4]))


def test_what_was_measured_of_other_tokens_does_not_fit() -> None:
    config = BackboneConfig(normalise="centred", token_mean=MEAN)
    with pytest.raises(UserError, match=r"backbone\.token_mean is of 2 channels, and tokens have"):
        TokenNormalisation(config, 3)
    with pytest.raises(UserError, match="is of 2 channels, and tokens have 15"):
        build_backbone(BackboneConfig(name="textons", normalise="centred", token_mean=MEAN))


def test_nothing_is_built_before_it_is_measured() -> None:
    half = BackboneConfig(name="textons", normalise="standardised", token_mean=(0.0,) * 15)
    for config in (BackboneConfig(name="textons", normalise="centred"), half):
        with pytest.raises(UserError, match=r"is measured once for all trials"):
            build_backbone(config)
        assert None in measurements(config).values()
    check_measured(BackboneConfig())
    assert measurements(BackboneConfig()) == {}


def test_a_backbone_gives_normalised_tokens_and_keeps_what_they_are_normalised_by() -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = build_backbone(BackboneConfig(name="textons"))(pixels).tokens
    mean = tuple(plain.mean((0, 2, 3)).tolist())
    std = tuple((plain.std((0, 2, 3), correction=0) + 0.1).tolist())
    config = BackboneConfig(
        name="textons", normalise="standardised", token_mean=mean, token_std=std
    )
    backbone = build_backbone(config)
    found = backbone(pixels).tokens
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(15), atol=1e-5, rtol=0)
    kept = {"token_scale.token_mean", "token_scale.token_std"}
    assert kept <= backbone.state_dict().keys()
    raw = build_backbone(BackboneConfig(name="textons")).state_dict()
    assert not any("token" in key for key in raw)
