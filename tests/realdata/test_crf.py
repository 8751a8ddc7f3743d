"""The exact CRF and the usual lattice code on photographs: nearly the same label maps.

The lattice approximates the kernels, and where classes are nearly tied that decides; so labels
agree for most pixels, not for all.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, normalize, one_hot

from usseg_ray.scoring.crf import LatticeCRF
from usseg_ray.scoring.mean_field import mean_field

pytestmark = pytest.mark.realdata

CLASSES = 12
PATCH = 8
SIDE = 192
IMAGES = 3
SHARPNESS = 2.0
"""Factor of cosines before the softmax, as in STEGO's official evaluation."""


def centre(path: Path, side: int) -> Tensor:
    """Reads the centre square of an image as (channels, side, side)."""
    array = np.array(Image.open(path))
    top, left = ((length - side) // 2 for length in array.shape[:2])
    square = torch.from_numpy(array[top : top + side, left : left + side])
    return square.view(side, side, -1).permute(2, 0, 1).contiguous()


def upsampled(cosines: Tensor, side: int) -> Tensor:
    """Turns (K, h, w) cosines to log-probabilities of pixels."""
    scores = interpolate(SHARPNESS * cosines[None], size=(side, side), mode="bilinear")
    return scores[0].log_softmax(0)


def of_truth(pixels: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Shares of the true classes in each patch under noise: a good network's unaries."""
    shares = one_hot(labels[0].long(), CLASSES).permute(2, 0, 1).float()
    coarse = avg_pool2d(shares[None], PATCH)[0]
    noise = torch.randn(coarse.shape, generator=torch.Generator().manual_seed(seed))
    return upsampled((0.8 * coarse + 0.2 * noise).clamp(-1, 1), pixels.shape[-1])


def of_colours(pixels: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Cosines to k-means centroids of colour and place: a weak method's unaries."""
    coarse = avg_pool2d(pixels[None] / 255, PATCH)[0]
    line = torch.linspace(0, 0.5, coarse.shape[1])
    place = torch.stack(torch.meshgrid(line, line, indexing="ij"))
    rows = torch.cat([coarse, place]).flatten(1).mT
    rows = normalize(rows - rows.mean(0))
    starts = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:CLASSES]
    centroids = rows[starts]
    for _ in range(10):
        member = one_hot((rows @ centroids.mT).argmax(1), CLASSES).float()
        centroids = normalize(member.mT @ rows + 1e-6 * centroids)
    return upsampled((centroids @ rows.mT).view(CLASSES, *coarse.shape[1:]), pixels.shape[-1])


Unaries = Callable[[Tensor, Tensor, int], Tensor]


@pytest.mark.parametrize("unaries", [of_truth, of_colours])
def test_labels_are_those_of_the_usual_code(shared: Path, unaries: Unaries) -> None:
    pytest.importorskip("pydensecrf", reason="pydensecrf2 was not built")
    folder = shared / "data" / "camvid" / "val"
    paths = sorted((folder / "images").iterdir())
    chosen = paths[:: len(paths) // IMAGES][:IMAGES]
    pixels = torch.stack([centre(path, SIDE) for path in chosen])
    truths = [folder / "labels" / f"{path.stem}.png" for path in chosen]
    labels = torch.stack([centre(path, SIDE) for path in truths])
    log_probs = torch.stack([unaries(*pair, 0) for pair in zip(pixels, labels, strict=True)])
    before = log_probs.argmax(1)
    ours = mean_field(log_probs, pixels).argmax(1)
    with LatticeCRF() as pool:
        usual = torch.from_numpy(pool(log_probs, pixels)).argmax(1)
    same, changed = ours == usual, usual != before
    assert changed.float().mean() > 0.05
    assert same.float().mean() >= 0.98
    assert same[changed].float().mean() >= 0.93
