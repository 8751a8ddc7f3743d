import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from usseg_ray.ops import guided as subject
from usseg_ray.ops.guided import REACH, SMOOTHNESS, guided


def naive(scores: Tensor, colours: Tensor) -> Tensor:
    """The filter of one image as it is written, window by window, in float64."""
    _, height, width = scores.shape
    radius = max(1, round(REACH * min(height, width)))
    slopes = torch.zeros(height, width, 3, len(scores), dtype=torch.float64)
    offsets = torch.zeros(height, width, len(scores), dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            rows, columns = window(y, height, radius), window(x, width, radius)
            seen = colours[:, rows, columns].flatten(1).T
            known = scores[:, rows, columns].flatten(1).T
            centred = seen - seen.mean(0)
            covariance = centred.T @ centred / len(seen) + SMOOTHNESS * torch.eye(3).double()
            joint = centred.T @ (known - known.mean(0)) / len(seen)
            slopes[y, x] = torch.linalg.solve(covariance, joint)
            offsets[y, x] = known.mean(0) - seen.mean(0) @ slopes[y, x]
    found = torch.zeros_like(scores)
    for y in range(height):
        for x in range(width):
            rows, columns = window(y, height, radius), window(x, width, radius)
            slope = slopes[rows, columns].flatten(0, 1).mean(0)
            found[:, y, x] = colours[:, y, x] @ slope + offsets[rows, columns].flatten(0, 1).mean(0)
    return found


def window(at: int, length: int, radius: int) -> slice:
    return slice(max(0, at - radius), min(length, at + radius + 1))


def test_it_is_the_filter_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "COARSER", 1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2, 3, 23, 20), generator=generator, dtype=torch.uint8)
    scores = torch.rand(2, 4, 23, 20, generator=generator).softmax(1)
    for found, one, image in zip(guided(scores, pixels), scores, pixels, strict=True):
        torch.testing.assert_close(
            found.double(), naive(one.double(), image.double() / 255), atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize("size", [(160, 160), (97, 141), (5, 3), (1, 1)])
def test_sums_and_even_scores_stay(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (1, 3, *size), generator=generator, dtype=torch.uint8)
    scores = torch.rand(1, 5, *size, generator=generator).softmax(1)
    torch.testing.assert_close(guided(scores, pixels).sum(1), torch.ones(1, *size))
    even = torch.full_like(scores, 0.2)
    torch.testing.assert_close(guided(even, pixels), even)


def test_scores_of_patches_step_where_the_image_does() -> None:
    truth = torch.zeros(1, 160, 160, dtype=torch.int64)
    truth[:, :, 67:] = 1
    colours = torch.tensor([[200, 60, 40], [40, 90, 180]], dtype=torch.uint8)
    pixels = colours[truth].movedim(-1, 1)
    share = torch.nn.functional.one_hot(truth, 2).movedim(-1, 1).float()
    patches = interpolate(share, size=(10, 10), mode="area")
    upsampled = interpolate(patches, size=(160, 160), mode="bilinear")
    before = (upsampled.argmax(1) != truth).float().mean()
    after = (guided(upsampled, pixels).argmax(1) != truth).float().mean()
    assert before > 0.005
    assert after == 0
