"""EQUSS against a rewrite in loops and float64, from the paper's equations.

The rewrite holds to 1e-5 in float32; its correspondence loss is written anew too, by pairs.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.contract.cases import FEATURES, make_batch
from usseg_ray.methods.equss import EQUSS
from usseg_ray.methods.parts.correspondence import sample
from usseg_ray.settings.equss import EQUSSConfig

SETTINGS = {"dim": 12, "subspaces": 3, "codebook_size": 5, "feature_samples": 3, "negatives": 2}
WIDTH = 4


def vector(values: Tensor) -> np.ndarray:
    return values.detach().double().numpy()


def unit(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / math.sqrt(float((values**2).sum())))


def quantised(codes: np.ndarray, books: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Quantises (B, C, h, w) codes: the vectors, the mean squared distance, the share in use."""
    count, _, height, width = codes.shape
    out, squares, used = np.zeros_like(codes), [], set()
    for image in range(count):
        for row in range(height):
            for column in range(width):
                for space, book in enumerate(books):
                    channels = slice(space * WIDTH, (space + 1) * WIDTH)
                    part = unit(codes[image, channels, row, column])
                    distances = [float(((part - unit(each)) ** 2).sum()) for each in book]
                    best = int(np.argmin(distances))
                    used.add((space, best))
                    out[image, channels, row, column] = book[best]
                    squares += list((part - book[best]) ** 2)
    return out, float(np.mean(squares)), len(used) / books[..., 0].size


def head(method: EQUSS, tokens: np.ndarray) -> np.ndarray:
    """Computes W1 t + W3 relu(W2 t) with biases."""
    weights = {name: vector(value) for name, value in method.head.named_parameters()}

    def layer(name: str, inputs: np.ndarray) -> np.ndarray:
        matrix, bias = weights[f"{name}.weight"][:, :, 0, 0], weights[f"{name}.bias"]
        return np.asarray(np.einsum("cd,bdhw->bchw", matrix, inputs) + bias[:, None, None])

    curved = layer("output", np.maximum(layer("hidden", tokens), 0))
    return np.asarray(layer("linear", tokens) + curved)


def rows(maps: np.ndarray, coords: Tensor) -> np.ndarray:
    """Reads unit vectors (B, N, D) at places."""
    read = sample(torch.from_numpy(maps), coords.double()).numpy()
    listed = read.reshape(*read.shape[:2], -1).transpose(0, 2, 1)
    return np.stack([[unit(each) for each in image] for image in listed])


def pairs(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], shift: float
) -> float:
    """Computes -(F - b) max(S, 0), with F centred over the second image's positions."""
    cosines = np.einsum("bnd,bmd->bnm", first[0], second[0])
    centred = cosines - cosines.mean(2, keepdims=True) + cosines.mean()
    similar = np.einsum("bnd,bmd->bnm", first[1], second[1])
    return float((-(centred - shift) * np.maximum(similar, 0)).mean())


def test_quantiser_and_its_gradients() -> None:
    method = EQUSS(EQUSSConfig(**SETTINGS), FEATURES, 4, seed=0)
    codes = torch.randn(2, 12, 3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = method.quantiser(codes)
    books = vector(method.quantiser.vectors)
    expected, distance, usage = quantised(vector(codes), books)
    np.testing.assert_allclose(vector(found.codes), expected, atol=1e-6)
    assert found.loss.item() == pytest.approx(1.25 * distance, abs=1e-6)
    assert found.usage.item() == pytest.approx(usage)
    found.loss.backward()
    # By differences: vectors feel the whole distance, codes a quarter of it.
    grad_books, grad_codes = vector(method.quantiser.vectors.grad), vector(codes.grad)  # type: ignore[arg-type]
    step = 1e-5
    for at in ((0, 1, 2), (1, 4, 0), (2, 0, 3)):
        moved = [books.copy(), books.copy()]
        moved[0][at] += step
        moved[1][at] -= step
        up, down = (quantised(vector(codes), each)[1] for each in moved)
        assert grad_books[at] == pytest.approx((up - down) / (2 * step), abs=1e-6)
    for place in ((0, 0, 0, 0), (1, 5, 2, 1), (0, 11, 1, 0)):
        shifted = [vector(codes).copy(), vector(codes).copy()]
        shifted[0][place] += step
        shifted[1][place] -= step
        up, down = (quantised(each, books)[1] for each in shifted)
        assert grad_codes[place] == pytest.approx(0.25 * (up - down) / (2 * step), abs=1e-6)


def test_whole_loss() -> None:
    config = EQUSSConfig(**SETTINGS, clustering="probe")
    method, batch = EQUSS(config, FEATURES, 4, seed=0), make_batch(range(4))
    draws = method.draw(batch, "train")
    assert batch.positive is not None
    views = [
        vector(view.tokens) * vector(masks.features)
        for view, masks in zip((batch.features, batch.positive), draws[:2], strict=True)
    ]
    codes = [head(method, tokens) for tokens in views]
    anchors, others, negatives = draws.correspondence
    here = rows(views[0], anchors), rows(codes[0], anchors)
    there = rows(views[1], others), rows(codes[1], others)
    strangers = [
        pairs(here, (rows(views[0][each], others), rows(codes[0][each], others)), 0.23)
        for each in negatives.numpy()
    ]
    correspondence = (
        0.47 * pairs(here, here, 0.18)
        + 0.45 * pairs(here, there, 0.02)
        + 0.53 * float(np.mean(strangers))
    )
    maps, distance, _ = quantised(codes[0], vector(method.quantiser.vectors))
    centroids = [unit(each) for each in vector(method.probe.centroids)]
    positions = maps.transpose(0, 2, 3, 1).reshape(-1, 12)
    probe = -np.mean([max(float(unit(each) @ one) for one in centroids) for each in positions])
    found = method.loss(batch, "train", draws)
    scalars = {name: float(value) for name, value in found.scalars.items()}
    assert scalars["correspondence"] == pytest.approx(correspondence, abs=1e-5)
    assert scalars["quantisation"] == pytest.approx(1.25 * distance, abs=1e-5)
    assert scalars["cluster"] == pytest.approx(probe, abs=1e-5)
    assert found.loss.item() == pytest.approx(correspondence + 1.25 * distance + probe, abs=1e-5)
