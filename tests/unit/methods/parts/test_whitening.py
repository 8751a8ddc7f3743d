"""Whitening of tokens, against numpy and what it is for."""

import numpy as np
import pytest
import torch
from torch import Tensor

from usseg_ray.methods.parts.whitening import Whitening


def tokens(count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(4, 4, generator=generator)
    maps = torch.randn(count, 4, 5, 3, generator=generator)
    return torch.einsum("bdhw,ed->behw", maps, mixed) + torch.arange(4.0)[:, None, None]


def fitted(power: float, *parts: Tensor) -> Whitening:
    whitening = Whitening(4, power)
    whitening.fit(iter(parts))
    return whitening


def rows(maps: Tensor) -> np.ndarray:
    return maps.flatten(2).mT.flatten(0, 1).double().numpy()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_as_numpy_does(power: float) -> None:
    given = tokens()
    points = rows(given)
    values, vectors = np.linalg.eigh(np.cov(points.T, bias=True))
    matrix = vectors @ np.diag(values ** (-power / 2)) @ vectors.T
    expected = (points - points.mean(0)) @ matrix
    np.testing.assert_allclose(rows(fitted(power, given)(given)), expected, atol=1e-4)


def test_in_full_every_direction_varies_alike() -> None:
    given = tokens()
    points = rows(fitted(1.0, given)(given))
    np.testing.assert_allclose(np.cov(points.T, bias=True), np.eye(4), atol=1e-4)


def test_batches_do_not_count() -> None:
    given = tokens()
    whole, parts = fitted(0.5, given), fitted(0.5, given[:1], given[1:])
    torch.testing.assert_close(whole.matrix, parts.matrix)
    torch.testing.assert_close(whole.mean, parts.mean)


def test_a_channel_that_never_varies_is_no_reason_to_overflow() -> None:
    given = torch.cat([tokens()[:, :3], torch.full((6, 1, 5, 3), 0.1)], 1)
    assert fitted(1.0, given)(given).abs().amax() < 20


@pytest.mark.parametrize("token", [(0.0, 0.0, 0.0, 0.0), (0.7, -3.1, 0.2, 9.3)])
def test_tokens_that_are_all_the_same_are_not_scaled(token: tuple[float, ...]) -> None:
    given = torch.tensor(token)[:, None, None].expand(7, 4, 5, 3)
    whitening = fitted(0.5, given)
    torch.testing.assert_close(whitening.matrix, torch.eye(4))
    torch.testing.assert_close(whitening(given), torch.zeros_like(given))
