"""PPAP against a rewrite in loops and float64, as its official code goes step by step.

The rewrite holds to 1e-5 in float32: which patches are partners, the loss, and its gradient by
differences.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.contract.cases import FEATURES, make_batch
from usseg_ray.methods.ppap import PPAP
from usseg_ray.ops.proxies import Zones, find_partners
from usseg_ray.settings.ppap import PPAPConfig

SETTINGS: dict[str, Any] = {"split": 4, "positive": 0.5, "negative": -0.1, "temperature": 0.3}


def vector(values: Tensor) -> np.ndarray:
    return values.detach().double().numpy()


def unit(values: np.ndarray) -> np.ndarray:
    length = math.sqrt(float((values**2).sum()))
    return np.asarray(values / length if length > 1e-12 else values)


def units(maps: np.ndarray) -> np.ndarray:
    """Lists unit vectors of (B, D, h, w), image by image, row by row."""
    return np.stack([unit(one) for one in maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1])])


def sets(tokens: np.ndarray, anchor: int, config: PPAPConfig) -> tuple[set[int], set[int]]:
    """Finds positives and denominator of one anchor, patch by patch."""
    phi, psi, proxy = config.positive, config.negative, tokens[anchor]
    cosines = [float(proxy @ one) for one in tokens]
    inside = [cosine > phi for cosine in cosines]
    for _ in range(config.rounds):
        # The mean over all tokens, those outside as zeros.
        mean = np.zeros_like(proxy)
        for taken, one in zip(inside, tokens, strict=True):
            mean = mean + one / len(tokens) if taken else mean
        following = unit(mean)
        distance = 1 - float(proxy @ following)
        psi += distance / config.negative_step
        phi -= distance / config.positive_step
        cosines = [float(following @ one) for one in tokens]
        inside = [cosine > phi for cosine in cosines]
        proxy = following
    positives = {j for j, taken in enumerate(inside) if taken and j != anchor}
    negatives = {j for j, cosine in enumerate(cosines) if cosine < psi and j != anchor}
    return positives, positives | negatives


def contrast(
    codes: np.ndarray, tokens: np.ndarray, images: np.ndarray, config: PPAPConfig
) -> float:
    """Computes the loss from unit codes and tokens, and the anchors of each image."""
    losses = []
    for anchors in images:
        terms = []
        for anchor in anchors:
            positives, compared = sets(tokens, int(anchor), config)
            if not positives:
                continue
            logits = codes @ codes[anchor] / config.temperature
            whole = math.log(sum(math.exp(logits[j]) for j in compared))
            terms.append(float(np.mean([logits[j] - whole for j in positives])))
        losses.append(-(config.temperature / 0.07) * float(np.mean(terms)) if terms else 0.0)
    return float(np.mean(losses))


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_partners(rounds: int) -> None:
    config = PPAPConfig(**SETTINGS, rounds=rounds, positive_step=2.0, negative_step=4.0)
    tokens = units(vector(make_batch(range(4)).features.tokens))
    anchors = torch.arange(0, 64, 3)
    zones = Zones(0.5, -0.1, rounds, 2.0, 4.0)
    found = find_partners(torch.from_numpy(tokens), anchors, zones)
    sizes = set()
    for row, anchor in enumerate(anchors.tolist()):
        positives, compared = sets(tokens, anchor, config)
        assert set(found.positives[row].nonzero().flatten().tolist()) == positives
        assert set(found.compared[row].nonzero().flatten().tolist()) == compared
        sizes |= {len(positives), len(compared) - len(positives)}
    assert len(sizes) > 5, "the patches are not told apart"


@pytest.mark.parametrize("block", ["copy", "new"])
@pytest.mark.parametrize("rounds", [0, 2])
def test_whole_loss_and_its_gradient(block: str, rounds: int) -> None:
    config = PPAPConfig(**SETTINGS, block=block, rounds=rounds, clustering="probe")
    method, batch = PPAP(config, FEATURES, 4, seed=0), make_batch(range(4))
    draws = method.draw(batch, "train")
    codes = method.describe(batch)
    tokens = units(vector(batch.features.tokens * draws.features))
    anchors = draws.anchors.numpy() + 16 * np.arange(4)[:, None]
    weight, bias = vector(method.projection.weight), vector(method.projection.bias)
    rows = vector(codes).transpose(0, 2, 3, 1).reshape(-1, FEATURES.dim)

    def rewritten(matrix: np.ndarray) -> float:
        projected = np.stack([unit(matrix @ one + bias) for one in rows])
        return contrast(projected, tokens, anchors, config)

    centroids = [unit(each) for each in vector(method.probe.centroids)]
    probe = -np.mean([max(float(unit(row) @ one) for one in centroids) for row in rows])
    found = method.loss(batch, "train", draws)
    assert found.scalars["contrast"].item() == pytest.approx(rewritten(weight), abs=1e-5)
    assert found.loss.item() == pytest.approx(rewritten(weight) + probe, abs=1e-5)
    found.loss.backward()
    assert method.projection.weight.grad is not None
    gradient, step = vector(method.projection.weight.grad), 1e-5
    for place in ((0, 0), (3, 7), (11, 2), (6, 6)):
        moved = [weight.copy(), weight.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (rewritten(each) for each in moved)
        assert gradient[place] == pytest.approx((up - down) / (2 * step), abs=1e-4)
