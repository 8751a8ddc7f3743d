"""The decoder keeps the finest size and draws by key."""

import urllib.request
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from usseg_ray.core.errors import UserError
from usseg_ray.methods.parts.pyramid import PyramidDecoder, PyramidNetwork, check_network
from usseg_ray.settings.picie import NetworkConfig


def decoder(seed: int = 0) -> PyramidDecoder:
    return PyramidDecoder([3, 5, 7], 4, torch.Generator().manual_seed(seed))


def test_result_has_the_finest_stage_size() -> None:
    stages = [torch.rand(2, 3, 9, 7), torch.rand(2, 5, 5, 4), torch.rand(2, 7, 3, 2)]
    assert decoder()(stages).shape == (2, 4, 9, 7)


def test_every_stage_counts() -> None:
    stages = [torch.rand(1, width, 4, 4, requires_grad=True) for width in (3, 5, 7)]
    decoder()(stages).sum().backward()
    assert all(stage.grad is not None and stage.grad.all() for stage in stages)


def test_weights_follow_the_generator() -> None:
    first, again, other = (next(decoder(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def scratch(name: str = "test_resnet", **settings: Any) -> NetworkConfig:
    return NetworkConfig(name=name, pretrained=False, **settings)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "test_convnext"])
def test_codes_have_a_quarter_of_the_size(name: str) -> None:
    network = PyramidNetwork(scratch(name, dim=16), 0)
    codes = network(torch.rand(2, 3, 64, 96))
    assert codes.shape == (2, 16, 16, 24)
    codes.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_resnet18_has_the_official_size() -> None:
    network = PyramidNetwork(scratch("resnet18"), 0)
    assert sum(p.numel() for p in network.decoder.parameters()) == 123_392
    assert sum(p.numel() for p in network.stages.parameters()) == 11_176_512


def test_pixels_are_brought_to_what_the_model_expects() -> None:
    grey = torch.full((1, 3, 2, 2), 0.5)
    assert PyramidNetwork(scratch("test_resnet"), 0).normalise(grey).abs().max() == 0
    assert PyramidNetwork(scratch("resnet18.tv_in1k"), 0).normalise(grey).amin() > 0.06


def test_weights_follow_the_key_and_leave_the_global_generator() -> None:
    before = torch.get_rng_state()
    torch.manual_seed(1)
    middle = torch.get_rng_state()
    first = PyramidNetwork(scratch(), 7, "picie").state_dict()
    assert torch.equal(torch.get_rng_state(), middle)
    torch.set_rng_state(before)
    again, other = (PyramidNetwork(scratch(), seed, "picie").state_dict() for seed in (7, 8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stages.conv1.0.weight"], other["stages.conv1.0.weight"])
    assert "mean" not in first


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_a_file_of_the_whole_model_is_loaded(tmp_path: Path, name: str) -> None:
    whole = timm.create_model(name)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(whole.state_dict(), path)
    network = PyramidNetwork(NetworkConfig(name=name, weights=str(path)), 0)
    x = torch.rand(1, 3, 64, 64)
    expected = whole.eval().forward_intermediates(x, intermediates_only=True)
    for stage, found in zip(expected[-4:], network.eval().stages(x), strict=True):
        torch.testing.assert_close(found, stage)


def test_another_classifier_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), path)
    assert PyramidNetwork(NetworkConfig(name="test_resnet", weights=str(path)), 0)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("resnet34").state_dict(), path)
    with pytest.raises(UserError, match=r"does not fit resnet18: \d+ tensors differ.*layer1\.2"):
        PyramidNetwork(NetworkConfig(name="resnet18", weights=str(path)), 0)


def test_a_file_with_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    del state["layer2.0.conv1.weight"]
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(UserError, match=r"1 tensors differ.*layer2\.0\.conv1\.weight"):
        PyramidNetwork(NetworkConfig(name="test_resnet", weights=str(path)), 0)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such \.safetensors file"):
        check_network(NetworkConfig(weights=str(tmp_path / "weights.pth")))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        PyramidNetwork(NetworkConfig(name="test_resnet", weights=str(path)), 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet1", r"method\.network\.name = 'resnet1' is no timm model; resnet18"),
        ("vit_tiny_patch16_224", r"stages of strides \[.*four of strides \[4, 8, 16, 32\]"),
    ],
)
def test_unfit_models_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_network(scratch(name))


def test_a_hub_out_of_reach_names_three_ways_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("usseg_ray.features.weights._cached", lambda _repository: False)
    ways = r"had from .*resnet18\.tv_in1k .*\. Three ways on: connect.*pretrained=false"
    with pytest.raises(UserError, match=ways):
        PyramidNetwork(NetworkConfig(name="resnet18.tv_in1k"), 0)
