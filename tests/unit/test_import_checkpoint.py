"""`import_checkpoint`: a file from elsewhere becomes a model, or a line says why not."""

from pathlib import Path

import torch

from tests.integration.commands import here
from usseg_ray.models.segmenter import Segmenter


def picie() -> dict[str, object]:
    """A checkpoint of PiCIE's layout, of a network that is drawn."""
    import timm

    state = timm.create_model("resnet18", pretrained=False).state_dict()
    network = {f"module.backbone.{name}": tensor for name, tensor in state.items()}
    for layer, width in (("layer4", 64), ("layer3", 128), ("layer2", 256), ("layer1", 512)):
        network[f"module.decoder.{layer}.weight"] = torch.randn(128, width, 1, 1)
        network[f"module.decoder.{layer}.bias"] = torch.zeros(128)
    classifier = {"module.weight": torch.randn(5, 128, 1, 1), "module.bias": torch.zeros(5)}
    return {
        "state_dict": network,
        "classifier1_state_dict": classifier,
        "classifier2_state_dict": classifier,
    }


def test_a_checkpoint_becomes_a_model(tmp_path: Path) -> None:
    path, out = tmp_path / "checkpoint.pth.tar", tmp_path / "model"
    torch.save(picie(), path)
    size = ("--set", "data.eval_size=64", "--set", "data.train_size=64")
    done = here("import_checkpoint", path, "--out", out, *size)
    assert done.returncode == 0, done.stderr
    assert Segmenter.open(out).num_clusters == 5
    refused = here("import_checkpoint", tmp_path / "lost.pth", "--out", out)
    assert refused.returncode == 2
    # What was there stays.
    assert Segmenter.open(out).num_clusters == 5
