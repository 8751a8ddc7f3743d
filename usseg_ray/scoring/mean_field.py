"""The fully connected CRF: label maps that follow edges which a coarse grid cannot see.

Off the training path: it sharpens upsampled cluster scores by the pixels before they are scored.
The mean field is computed *exactly*, where the usual code splats pixels on a permutohedral lattice
and blurs there. The Gaussian kernel is a product of two small matrices. The bilateral kernel
relates every pixel to every other, but few of them are near in colour and place at once: pixels
are cut into blocks that are tight in both, pairs of blocks that are too far apart to matter are
left out, and the kernel of the others is computed again in every step, a few pairs at a time,
since storing it would take gigabytes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

_BLOCK = 128
_TOLERANCE = 1e-4
_ENTRIES_CPU = 2**20
_ENTRIES_GPU = 2**25


@dataclass(frozen=True)
class CRFParameters:
    """Strength and reach of the two pairwise terms; the defaults are those that the field uses.

    Attributes:
        gaussian_sxy: Deviation of the smoothness kernel, pixels.
        gaussian_compat: Its Potts weight.
        bilateral_sxy: Deviation of the appearance kernel in the plane, pixels.
        bilateral_srgb: Its deviation in each colour channel, of 255.
        bilateral_compat: Its Potts weight.
        steps: Mean field updates.

    Reference:
        Kraehenbuehl and Koltun 2011, arXiv 1210.5644, eq. 3; values of STEGO's official code.
    """

    gaussian_sxy: float = 1.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 67.0
    bilateral_srgb: float = 3.0
    bilateral_compat: float = 4.0
    steps: int = 10


@torch.no_grad()
def mean_field(
    log_probs: Float[Tensor, "B K H W"],
    pixels: UInt8[Tensor, "B 3 H W"],
    crf: CRFParameters = CRFParameters(),
) -> Float32[Tensor, "B K H W"]:
    """Computes the marginals of the fully connected CRF of every image.

    Beside its inputs it takes at most 200 MB on a CPU at 320x320 and 27 classes, and 1 GB on a GPU,
    where more pairs are computed at once. On a CPU a repetition is identical to the bit. Float32
    products must be such: TF32, which PyTorch leaves off unless told, is too coarse for distances.

    Args:
        log_probs: (B, K, H, W) log-probabilities of the classes, up to a constant per pixel.
        pixels: (B, 3, H, W) uint8, RGB, on the same device.
        crf: The pairwise terms.

    Returns:
        (B, K, H, W) float32 probabilities. Pairs of pixels that were left out change no
        normalised message (at most about 1) of the bilateral kernel by more than 0.0001.

    Reference:
        Kraehenbuehl and Koltun 2011, arXiv 1210.5644, algorithm 1; kernels hold the pixel itself
        and are normalised as D^-1/2 K D^-1/2, as in the authors' later code.
    """
    with torch.autocast(log_probs.device.type, enabled=False):
        images = [_one(*image, crf) for image in zip(log_probs.float(), pixels, strict=True)]
        return torch.stack(images)


def _one(
    log_probs: Float32[Tensor, "K H W"], pixels: UInt8[Tensor, "3 H W"], crf: CRFParameters
) -> Float32[Tensor, "K H W"]:
    rows, columns = (
        _smoothing(side, crf.gaussian_sxy, pixels.device) for side in log_probs.shape[1:]
    )
    bilateral = _Bilateral(pixels, crf)
    found = log_probs.softmax(0)
    for _ in range(crf.steps):
        near = crf.gaussian_compat * (rows @ found @ columns)
        alike = crf.bilateral_compat * bilateral(found.flatten(1)).view_as(found)
        found = (log_probs + near + alike).softmax(0)
    return found


def _smoothing(side: int, deviation: float, device: torch.device) -> Float32[Tensor, "n n"]:
    """Makes the normalised Gaussian kernel of one axis; that of the plane is a product of two."""
    place = torch.arange(side, device=device) / deviation
    kernel = (-0.5 * (place[:, None] - place).square()).exp()
    scale = kernel.sum(1).rsqrt()
    return scale[:, None] * kernel * scale


class _Blocks(NamedTuple):
    """The pixels of an image in M blocks of n; the last pixel fills the blocks up.

    Attributes:
        features: (M, n, 5), place and colour in deviations.
        members: (M n,), the pixel at each position.
        real: (M, 1, n), 0 where a pixel only fills up.
        places: (N,), the position of each pixel.
    """

    features: Float32[Tensor, "M n 5"]
    members: Int64[Tensor, "Mn"]
    real: Float32[Tensor, "M 1 n"]
    places: Int64[Tensor, "N"]


def _blocks(features: Float32[Tensor, "N 5"]) -> _Blocks:
    """Halves the pixels at the median of their widest feature until blocks are small."""
    count = len(features)
    halvings = max(0, (count - 1) // _BLOCK).bit_length()
    filled = torch.arange(-(-count // 2**halvings) * 2**halvings, device=features.device)
    order = filled[None]
    for _ in range(halvings):
        inside = features[order.clamp(max=count - 1)]
        widest = (inside.amax(1) - inside.amin(1)).argmax(1)
        values = inside.gather(2, widest[:, None, None].expand(-1, inside.shape[1], 1))[..., 0]
        order = order.gather(1, values.argsort(dim=1, stable=True)).view(2 * len(order), -1)
    members = order.clamp(max=count - 1)
    real = (order < count).float()[:, None]
    return _Blocks(features[members], members.flatten(), real, order.flatten().argsort()[:count])


class _Bilateral:
    """The normalised appearance kernel of one image, as a function of one value per pixel."""

    def __init__(self, pixels: UInt8[Tensor, "3 H W"], crf: CRFParameters) -> None:
        y, x = (torch.arange(side, device=pixels.device) for side in pixels.shape[1:])
        place = torch.stack(torch.meshgrid(y, x, indexing="ij")) / crf.bilateral_sxy
        features = torch.cat([place, pixels / crf.bilateral_srgb]).flatten(1).mT
        self.blocks = _blocks(features)
        self.factors = _factors(self.blocks.features)
        # Every degree is at least 1, the pixel's own weight; once known, fewer pairs do.
        self.scale = torch.ones_like(self.blocks.real)
        self.pairs = _near_pairs(self.blocks.features, self.scale)
        self.scale = self._sums(self.blocks.real).rsqrt()
        self.pairs = _near_pairs(self.blocks.features, self.scale)

    def __call__(self, values: Float32[Tensor, "K N"]) -> Float32[Tensor, "K N"]:
        count, _, size = self.blocks.real.shape
        given = values[:, self.blocks.members].view(-1, count, size).transpose(0, 1)
        sums = self.scale * self._sums(self.scale * self.blocks.real * given)
        return sums.transpose(0, 1).flatten(1)[:, self.blocks.places]

    def _sums(self, values: Float32[Tensor, "M K n"]) -> Float32[Tensor, "M K n"]:
        """Sums what all pixels give each, weighted by the kernel; each pair serves both ways."""
        # Classes by pixels: products of a few rows are faster than those of a few columns.
        values = values.contiguous()
        total = torch.zeros_like(values)
        entries = _ENTRIES_CPU if values.device.type == "cpu" else _ENTRIES_GPU
        for pairs in self.pairs.split(max(1, entries // values.shape[2] ** 2), dim=1):
            first, second = pairs
            kernel = self.factors.kernel(first, second)
            total.index_add_(0, first, values[second] @ kernel.mT)
            back = (first != second).float()[:, None, None]
            total.index_add_(0, second, back * (values[first] @ kernel))
        return total


class _Factors(NamedTuple):
    """What kernels are products of: -d^2 / 2 = ab - a^2 / 2 - b^2 / 2, around a's block's centre.

    There the squares of pixels that are near are small, and so is what cancels between them.

    Attributes:
        features: (M, n, 5), as given.
        centres: (M, 1, 5), means of the blocks.
        left: (M, n, 7), a, -a^2 / 2 and 1.
    """

    features: Float32[Tensor, "M n 5"]
    centres: Float32[Tensor, "M 1 5"]
    left: Float32[Tensor, "M n 7"]

    def kernel(
        self, first: Int64[Tensor, "P"], second: Int64[Tensor, "P"]
    ) -> Float32[Tensor, "P n n"]:
        """Computes exp(-d^2 / 2) between the pixels of the first and the second blocks."""
        right = self.features[second] - self.centres[first]
        right = torch.cat([right, torch.ones_like(right[..., :1]), _half_square(right)], 2)
        return (self.left[first] @ right.mT).exp_()


def _factors(features: Float32[Tensor, "M n 5"]) -> _Factors:
    centres = features.mean(1, keepdim=True)
    left = features - centres
    left = torch.cat([left, _half_square(left), torch.ones_like(left[..., :1])], 2)
    return _Factors(features, centres, left)


def _half_square(rows: Float32[Tensor, "*shape 5"]) -> Float32[Tensor, "*shape 1"]:
    return -0.5 * rows.square().sum(-1, keepdim=True)


def _near_pairs(
    features: Float32[Tensor, "M n 5"], scale: Float32[Tensor, "M 1 n"]
) -> Int64[Tensor, "2 pairs"]:
    """Finds the pairs of blocks that matter, each once; what a block misses is below the tolerance.

    A pair's weight bounds what all pixels of one block can give to a pixel of the other: every
    distance is at least that of the bounding boxes, every scale at most the block's largest.
    """
    low, high, largest = features.amin(1), features.amax(1), scale.amax((1, 2))
    everyone = torch.arange(len(features), device=features.device)

    def weights(rows: Int64[Tensor, "R"]) -> Float32[Tensor, "R M"]:
        squares = torch.zeros(len(rows), len(features), device=features.device)
        for axis in range(features.shape[2]):
            below, above = low[:, axis], high[:, axis]
            gap = torch.maximum(below[rows, None] - above, below - above[rows, None])
            squares += gap.clamp_(min=0).square_()
        return features.shape[1] * largest[rows, None] * largest * (-0.5 * squares).exp_()

    parts = everyone.split(max(1, 2**22 // len(features)))
    least = torch.cat([_least_needed(weights(rows)) for rows in parts])
    found = []
    for rows in parts:
        needed = weights(rows) >= torch.minimum(least[rows, None], least)
        row, column = (needed & (rows[:, None] <= everyone)).nonzero(as_tuple=True)
        found.append(torch.stack([rows[row], column]))
    return torch.cat(found, dim=1)


def _least_needed(weights: Float32[Tensor, "R M"]) -> Float32[Tensor, "R"]:
    """Finds the smallest weight of each row that cannot go: all below sum to the tolerance."""
    ordered = weights.sort(dim=1).values
    spare = (ordered.cumsum(1) <= _TOLERANCE).sum(1, keepdim=True)
    return ordered.gather(1, spare.clamp(max=weights.shape[1] - 1))[:, 0]
