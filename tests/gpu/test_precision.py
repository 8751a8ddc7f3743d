"""On a GPU the backbone computes in bfloat16 and losses in float32, close to a CPU in float32."""

import pytest
import torch
from torch.nn.functional import normalize

from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.types import Images, Needs
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.featuriser import Featuriser
from usseg_ray.methods.parts.contrastive import (
    Candidates,
    ContrastiveOptions,
    best_match,
    hidden_positive_loss,
)
from usseg_ray.ops.modularity import affinity, cosine, graph, modularity_loss
from usseg_ray.ops.products import rounding

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return Images(("a", "b"), pixels)


def test_bfloat16_features_are_close_to_float32() -> None:
    tokens = []
    for device, autocast in (("cpu", False), ("cuda", True)):
        backbone = build_backbone(BackboneConfig(name="textons"))
        batch = Featuriser(backbone, Needs(), torch.device(device), autocast=autocast)(images())
        assert batch.features.tokens.dtype == torch.float32
        tokens.append(batch.features.tokens.cpu())
    similarity = torch.cosine_similarity(tokens[0], tokens[1], dim=1)
    assert similarity.min() > 0.98


def test_the_modularity_loss_is_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 64, 16, generator=generator)
    concepts = torch.randn(2, 5, 16, generator=generator)
    expected = modularity_loss(cosine(pixels, concepts), graph(affinity(pixels)))
    with torch.autocast("cuda", torch.bfloat16):
        on_gpu = [t.cuda() for t in (pixels, concepts)]
        found = modularity_loss(cosine(*on_gpu), graph(affinity(on_gpu[0])))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("allowed", [False, True])
def test_positives_are_those_of_float32_whatever_is_rounded(allowed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(4 * 196, 384, generator=generator) for _ in range(4)]
    pool = normalize(torch.randn(256, 384, generator=generator), dim=1)
    found = []
    for device in ("cpu", "cuda"):
        agnostic, specific, codes, mixed = (normalize(one, dim=1).to(device) for one in draws)
        first, second = (
            Candidates(one, best_match(one, pool.to(device))) for one in (agnostic, specific)
        )
        options = ContrastiveOptions(temperature=0.6, task_weight=0.5)
        with rounding(allowed=allowed):
            result = hidden_positive_loss(codes, mixed, first, second, None, 196, options)
        found.append(result)
    cpu, gpu = found
    assert cpu.agnostic.sum() > 100
    # Products are added up in another order there, so that a pair at its threshold may fall.
    for one, other in ((gpu.agnostic, cpu.agnostic), (gpu.specific, cpu.specific)):
        assert (one.cpu() - other).abs().sum() < 1e-3 * other.sum()
    tolerance = 1e-3 if allowed else 1e-4
    torch.testing.assert_close(gpu.loss.cpu(), cpu.loss, rtol=tolerance, atol=0)
