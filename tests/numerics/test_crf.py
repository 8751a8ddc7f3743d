"""The mean field against one that stores every pair of pixels, in float64; its kernels against
vectors of STEGO's official contrastive CRF loss, which has the same two."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tests.numerics.comparing import Golden, close, close_gradient
from usseg_ray.data.synthetic import scene
from usseg_ray.scoring.mean_field import CRFParameters, _factors, mean_field

AT_MOST = 1e-3


def naive(log_probs: Tensor, pixels: Tensor, crf: CRFParameters) -> Tensor:
    """Runs the mean field of one image with an N x N kernel."""
    classes, height, width = log_probs.shape
    grid = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack(grid).flatten(1).double()
    colour = pixels.flatten(1).double()
    apart = sum((axis[:, None] - axis).square() for axis in place)
    unlike = sum((channel[:, None] - channel).square() for channel in colour)

    def kernel(exponent: Tensor) -> Tensor:
        weights = (-0.5 * exponent).exp()
        degrees = weights.sum(1)
        return weights / (degrees[:, None] * degrees).sqrt()

    near = kernel(apart / crf.gaussian_sxy**2)
    alike = kernel(apart / crf.bilateral_sxy**2 + unlike / crf.bilateral_srgb**2)
    unary = log_probs.flatten(1).double()
    found = unary.softmax(0)
    for _ in range(crf.steps):
        message = crf.gaussian_compat * found @ near + crf.bilateral_compat * found @ alike
        found = (unary + message).softmax(0)
    return found.view(classes, height, width)


def coarse(classes: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Draws log-probabilities that a coarse grid could have given."""
    generator = torch.Generator().manual_seed(seed)
    grid = 2 * torch.randn(1, classes, -(-height // 8), -(-width // 8), generator=generator)
    return interpolate(grid, size=(height, width), mode="bilinear").log_softmax(1)


def photograph(height: int, width: int, index: int = 0) -> Tensor:
    pixels = torch.from_numpy(scene(0, "test", index)[0]).permute(2, 0, 1)
    return pixels[:, :height, :width].contiguous()


def flat(height: int, width: int) -> Tensor:
    return torch.full((3, height, width), 200, dtype=torch.uint8)


def halves(height: int, width: int) -> Tensor:
    """Two flat colours, near enough for the kernel to see across."""
    pixels = flat(height, width)
    pixels[:, :, width // 2 :] += 5
    return pixels


def noise(height: int, width: int) -> Tensor:
    """Colours from all over, so that nearly every pair of blocks is far apart."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), np.uint8))


def ramp(height: int, width: int) -> Tensor:
    """A sky: brightness falls slowly from left to right."""
    shades = torch.linspace(90, 230, width).to(torch.uint8)
    return shades.expand(3, height, width).contiguous()


def assert_equal(log_probs: Tensor, pixels: Tensor, crf: CRFParameters) -> None:
    expected = naive(log_probs, pixels, crf)
    found = mean_field(log_probs[None], pixels[None], crf)[0].double()
    # More than any tolerance of ours, so that leaving the CRF out would not pass.
    assert (expected - log_probs.double().softmax(0)).abs().max() > 0.05
    assert (found - expected).abs().max() < AT_MOST
    top = expected.topk(2, dim=0).values
    decided = top[0] - top[1] > 2 * AT_MOST
    assert decided.float().mean() > 0.99
    assert torch.equal(found.argmax(0)[decided], expected.argmax(0)[decided])
    assert (found.argmax(0) == expected.argmax(0)).float().mean() >= 0.999


@pytest.mark.parametrize("classes", [2, 27])
@pytest.mark.parametrize("image", [photograph, flat, halves, noise, ramp])
def test_small_images_against_all_pairs(image: Callable[[int, int], Tensor], classes: int) -> None:
    height, width = 48, 61
    assert_equal(coarse(classes, height, width)[0], image(height, width), CRFParameters())


@pytest.mark.parametrize("index", [1, 2, 3])
def test_photographs_against_all_pairs(index: int) -> None:
    assert_equal(coarse(5, 64, 70, index)[0], photograph(64, 70, index), CRFParameters())


@pytest.mark.parametrize(
    "crf",
    [
        CRFParameters(gaussian_sxy=3.0, gaussian_compat=6.0, bilateral_compat=0.0),
        CRFParameters(
            gaussian_compat=0.0, bilateral_sxy=5.0, bilateral_srgb=20.0, bilateral_compat=9.0
        ),
        CRFParameters(bilateral_sxy=100.0, bilateral_srgb=1.0, steps=3),
    ],
)
def test_other_terms_against_all_pairs(crf: CRFParameters) -> None:
    assert_equal(coarse(4, 40, 56)[0], photograph(40, 56), crf)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (16, 8), (3, 43)])
def test_images_of_about_one_block_against_all_pairs(size: tuple[int, int]) -> None:
    log_probs, pixels = coarse(3, *size)[0], photograph(*size)
    found = mean_field(log_probs[None], pixels[None])[0].double()
    torch.testing.assert_close(
        found, naive(log_probs, pixels, CRFParameters()), atol=AT_MOST, rtol=0
    )


def test_a_batch_is_its_images_one_by_one() -> None:
    log_probs = coarse(6, 40, 50).expand(2, -1, -1, -1)
    pixels = torch.stack([photograph(40, 50, 1), photograph(40, 50, 2)])
    both = mean_field(log_probs, pixels)
    for index in range(2):
        one = mean_field(log_probs[index : index + 1], pixels[index : index + 1])
        assert torch.equal(both[index], one[0])
    assert (both[0] - both[1]).abs().max() > 0.05


def kernel(place: Tensor, colour: Tensor) -> Tensor:
    """Computes exp(-d^2 / 2) between all pixels of an image, as the mean field does."""
    features = torch.cat([place, colour]).mT[None]
    one = torch.zeros(1, dtype=torch.int64)
    return _factors(features).kernel(one, one)[0]


def test_kernels_are_those_of_the_contrastive_crf_loss(golden: Golden) -> None:
    # A loss that weighs 0 in every published setting, of the two kernels that a CRF has.
    vectors = golden("hp/stego_crf_loss.npz")
    alpha, beta, gamma, appearance, smoothness, shift = (
        float(value) for value in vectors["alpha_beta_gamma_w1_w2_shift"]
    )
    coords = torch.as_tensor(vectors["coords"])
    guidance = torch.as_tensor(vectors["guidance"])[:, :, coords[0], coords[1]]
    clusters = torch.as_tensor(vectors["clusters"]).clone().requires_grad_()
    place, codes = coords.float(), clusters[:, :, coords[0], coords[1]]
    near = kernel(place / gamma**0.5, torch.zeros(3, place.shape[1]))
    alike = torch.stack([kernel(place / alpha**0.5, one / beta**0.5) for one in guidance])
    found = -(codes.mT @ codes) * (appearance * alike + smoothness * near - shift)
    # Values reach 13, and distances between blocks are taken in float32.
    np.testing.assert_allclose(found.detach(), vectors["out"], rtol=1e-5, atol=1e-5)
    close(found.mean(), vectors["out_mean"])
    found.mean().backward()
    close_gradient(clusters.grad, vectors["grad_clusters_of_mean"])
