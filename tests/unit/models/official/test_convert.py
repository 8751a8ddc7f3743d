"""Official checkpoints as models: they score tokens as the official modules do.

The modules are built here with the official attributes' names, from the published descriptions:
torch then names their tensors as in the published files.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, Images
from usseg_ray.models.official.convert import convert, read_checkpoint
from usseg_ray.models.official.tensors import tensors_of
from usseg_ray.models.segmenter import Segmenter

K, DIM, SIDE, WIDTH = 5, 12, 64, 384
TOKENS = (SIDE // 8) ** 2
SMALL = {
    "data.train_size": SIDE,
    "data.eval_size": SIDE,
    # A block of the twelve.
    "backbone.timm_args": {"depth": 1},
}


def head(dim: int, activation: nn.Module) -> tuple[nn.Module, nn.Module]:
    plain = nn.Sequential(nn.Conv2d(WIDTH, dim, 1))
    return plain, nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), activation, nn.Conv2d(WIDTH, dim, 1))


def drawn() -> Any:
    return timm.create_model(
        "vit_small_patch8_224.dino", pretrained=False, dynamic_img_size=True, depth=1
    )


class Net(nn.Module):
    """STEGO's and HP's featuriser: the backbone, and two branches of a head."""

    def __init__(self, *, teacher: bool = False) -> None:
        super().__init__()
        self.model = drawn()
        self.cluster1, self.cluster2 = head(DIM, nn.ReLU())
        if teacher:
            self.ema_model1, self.ema_model2 = head(DIM, nn.ReLU())

    def codes(self, tokens: Tensor) -> Tensor:
        codes: Tensor = self.cluster1(tokens) + self.cluster2(tokens)
        return codes


class Clusters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clusters = nn.Parameter(torch.randn(K, DIM))


class Stego(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.cluster_probe = Net(), Clusters()
        self.train_cluster_probe = Clusters()
        self.linear_probe = nn.Conv2d(DIM, 27, 1)
        self.decoder = nn.Conv2d(DIM, WIDTH, 1)


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = drawn()


class Projection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cluster1, self.cluster2 = head(DIM, nn.SiLU())


class Prototypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.local_clusters = nn.Parameter(torch.randn(K, DIM))
        self.global_clusters = nn.Parameter(torch.randn(K, DIM))


class Smooseg(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.projection, self.prediction = Backbone(), Projection(), Prototypes()


class Func(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Conv2d(DIM, width, 1)


class MLPHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f1 = nn.Conv2d(WIDTH, DIM, 1)
        self.f2 = head(DIM, nn.ReLU())[1]

    def forward(self, tokens: Tensor) -> Tensor:
        codes: Tensor = self.f1(tokens) + self.f2(tokens)
        return codes


class TRDecoder(MLPHead):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(WIDTH, 2048), nn.Linear(2048, WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))

    def decode(self, target: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        asked = target + position
        target = self.norm1(target + self.self_attn(asked, asked, target)[0])
        target = self.norm2(target + self.multihead_attn(target + position, memory, memory)[0])
        target = self.norm3(target + self.linear2(self.linear1(target).relu()))
        joined = (target + memory).mT.unflatten(2, (SIDE // 8, SIDE // 8))
        codes: Tensor = self(joined)
        return codes


class TRHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_pos = nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.tr = TRDecoder()


class Segment(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.head, self.head_ema = kind(), kind()
        self.projection_head, self.projection_head_ema = Func(16), Func(16)
        self.linear = Func(27)


class FPN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = {"layer4": 64, "layer3": 128, "layer2": 256, "layer1": 512}
        self.backbone = timm.create_model("resnet18", pretrained=False)
        self.decoder = nn.ModuleDict({name: nn.Conv2d(n, 128, 1) for name, n in layers.items()})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    # The process that reads is test_tensors.py's.
    monkeypatch.setattr("usseg_ray.models.official.convert.read_tensors", tensors_of)


def opened(folder: Path, files: list[tuple[str, Any]], **settings: Any) -> Segmenter:
    """Writes files, converts them and opens the model."""
    paths = []
    for name, content in files:
        paths.append(folder / name)
        if name.endswith(".npy"):
            np.save(paths[-1], content)
        else:
            torch.save(content, paths[-1])
    convert(read_checkpoint(paths), folder / "model", SMALL | settings)
    assert not list((folder / "model").glob("*.p*t*"))
    return Segmenter.open(folder / "model", torch.device("cpu"))


def seen(segmenter: Segmenter) -> Batch:
    random = np.random.default_rng(1)
    pixels = torch.from_numpy(random.integers(0, 256, (1, 3, SIDE, SIDE), dtype=np.uint8))
    return segmenter.model.featurise(Images(("0",), pixels))


def cosines(codes: Tensor, clusters: Tensor) -> Tensor:
    return cosine_similarity(codes[:, None], clusters[None, :, :, None, None], dim=2)


@torch.no_grad()
def test_stego_comes_with_its_backbone_in_lightnings_file(tmp_path: Path) -> None:
    theirs = Stego().eval()
    held = {"state_dict": theirs.state_dict(), "hyper_parameters": {"n_classes": 27}}
    ours = opened(tmp_path, [("stego.ckpt", held)])
    about, batch = ours.description, seen(ours)
    assert (about.method, about.num_clusters) == ("stego", K)
    assert about.backbone.name == "vit_small_patch8_224.dino"
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in theirs_statistics())
    tokens = theirs.net.model.forward_features((batch.pixels - mean) / std)[:, 1:]
    tokens = tokens.mT.unflatten(2, (SIDE // 8, SIDE // 8))
    expected = cosines(theirs.net.codes(tokens), theirs.cluster_probe.clusters)
    assert torch.allclose(ours.model.method.predict(batch), expected, atol=1e-4)


def theirs_statistics() -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def test_hp_comes_with_student_and_teacher(tmp_path: Path) -> None:
    clusters = Clusters()
    net: Any = Net(teacher=True).eval()
    held = {
        "epoch": 3,
        "net_model_state_dict": net.state_dict(),
        "linear_model_state_dict": nn.Conv2d(DIM, 27, 1).state_dict(),
        "cluster_model_state_dict": OrderedDict(
            # As saved from a wrapper.
            {f"module.{name}": value for name, value in clusters.state_dict().items()}
        ),
        "net_optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}},
    }
    ours = opened(tmp_path, [("ckpt.pth", held)])
    batch = seen(ours)
    expected = cosines(net.codes(batch.features.tokens), clusters.clusters)
    assert torch.allclose(ours.model.method.predict(batch), expected, atol=1e-5)
    teacher = ours.model.method.state_dict()["teacher.hidden.weight"]
    assert torch.equal(teacher, net.ema_model2[0].weight)


@torch.no_grad()
def test_smooseg_predicts_by_its_teacher_prototypes(tmp_path: Path) -> None:
    theirs: Any = Smooseg().eval()
    ours = opened(tmp_path, [("smooseg.ckpt", {"state_dict": theirs.state_dict()})])
    batch, project = seen(ours), theirs.projection
    tokens = batch.features.tokens
    codes = project.cluster1(tokens) + project.cluster2(tokens)
    expected = cosines(codes, theirs.prediction.global_clusters)
    assert torch.allclose(ours.model.method.predict(batch), expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mlp", "tr"])
def test_cause_comes_in_three_files(tmp_path: Path, kind: str) -> None:
    theirs: Any = Segment(MLPHead if kind == "mlp" else TRHead).eval()
    book, clusters = torch.randn(9, WIDTH), torch.randn(K, DIM)
    cluster = OrderedDict(codebook=torch.zeros(9, WIDTH), cluster_probe=clusters)
    files = [
        (f"segment_{kind}.pth", theirs.state_dict()),
        (f"cluster_{kind}.pth", cluster),
        ("modular.npy", book.numpy()),
    ]
    # Its backbone lies elsewhere; here a drawn one stands for it.
    place = tmp_path / "dino.safetensors"
    save_file(drawn().state_dict(), place)
    ours = opened(tmp_path, files, **{"backbone.weights": str(place)})
    batch = seen(ours)
    tokens = batch.features.tokens
    if kind == "mlp":
        codes = theirs.head_ema(tokens)
    else:
        rows = tokens.flatten(2).mT
        nearest = (normalize(rows, dim=2) @ normalize(book, dim=1).T).argmax(2)
        codes = theirs.head_ema.tr.decode(book[nearest], rows, theirs.head_ema.query_pos)
    expected = 3 * cosines(codes, clusters)
    method: Any = ours.model.method
    assert torch.allclose(method.classify(method.encode(batch)), expected, atol=1e-4)
    assert method.num_clusters == K


@torch.no_grad()
def test_picie_comes_with_both_views_clusters(tmp_path: Path) -> None:
    theirs: Any = FPN().eval()
    first, second = (nn.Conv2d(128, K, 1).eval() for _ in range(2))
    for classifier in (first, second):
        nn.init.zeros_(classifier.state_dict()["bias"])
    wrapped = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    held = {
        "epoch": 10,
        "state_dict": OrderedDict(wrapped),
        "classifier1_state_dict": {f"module.{k}": v for k, v in first.state_dict().items()},
        "classifier2_state_dict": {f"module.{k}": v for k, v in second.state_dict().items()},
    }
    ours = opened(tmp_path, [("checkpoint.pth.tar", held)])
    batch = seen(ours)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in theirs_statistics())
    stages = theirs.backbone.forward_intermediates(
        (batch.pixels - mean) / std, indices=[1, 2, 3, 4], intermediates_only=True
    )
    *finer, joined = (
        theirs.decoder[name](stage)
        for name, stage in zip(("layer4", "layer3", "layer2", "layer1"), stages, strict=True)
    )
    for stage in reversed(finer):
        size = stage.shape[2:]
        joined = nn.functional.interpolate(joined, size, mode="bilinear") + stage
    expected = first(normalize(joined))
    assert torch.allclose(ours.model.method.predict(batch), expected, atol=1e-4)
    assert ours.description.backbone.name == "none"


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = Stego().state_dict()
    state["net.cluster1.0.weight"] = torch.ones(DIM + 1, WIDTH, 1, 1)
    with pytest.raises(UserError, match=r"not quite stego's: 1 tensors .*head\.linear\.weight"):
        opened(tmp_path, [("stego.ckpt", {"state_dict": state})])
    assert not (tmp_path / "model").exists()
    state = {k: v for k, v in state.items() if "net.model" not in k}
    for name in ("cluster2.0", "cluster2.2"):
        state[f"net.{name}.weight"] = torch.ones(100, 100, 1, 1)
    with pytest.raises(UserError, match="tokens of 100 channels"):
        opened(tmp_path, [("stego.ckpt", {"state_dict": state})])
