"""AnyUp: maps of patches brought to the size of the pixels by attention, learnt once for all.

Every pixel is a mean of the patches near it. Its weights come from the image alone (queries), and
from the image and the patches' features (keys), whatever these are: features of any network, of any
width. What is averaged may be something else of the same patches, such as codes or scores.

Reference:
    Wimmer et al., "AnyUp: Universal Feature Upsampling", ICLR 2026, arXiv 2510.12764. Names and
    shapes of the weights, eight groups of the normalisations, windows, rotary positions and the
    order of the filters' answers are those of its published model, which is strict about them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

WIDTH = 128
HEADS = 4
REACH = 0.1
"""Half of a pixel's window over the side of the map."""
FILTER = 5
"""Side of the filters that see the features, patches."""

_GROUPS = 8
_BLOCKS = 2
_PLACES = 256
"""Patches whose filters are answered at a time: their answers are (D 128) each."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _encoder(name: str, inputs: int, side: int) -> dict[str, tuple[int, ...]]:
    """Lists the weights of a convolution and its residual blocks."""
    found: dict[str, tuple[int, ...]] = {f"{name}.0.weight": (WIDTH, inputs, side, side)}
    for block in range(1, _BLOCKS + 1):
        for half in (0, 3):
            norm, inside = f"{name}.{block}.block.{half}", f"{name}.{block}.block.{half + 2}"
            found |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
            found[f"{inside}.weight"] = (WIDTH, WIDTH, 1, 1)
    return found


_ATTENTION = "cross_decode.cross_attn"
_FEATURES = "key_features_encoder"

LAYOUT: dict[str, tuple[int, ...]] = {
    **_encoder("image_encoder", 3, 1),
    **_encoder("query_encoder", WIDTH, 1),
    **_encoder("key_encoder", WIDTH, 1),
    **{
        key: shape
        for key, shape in _encoder(_FEATURES, 1, 1).items()
        if key != f"{_FEATURES}.0.weight"
    },
    f"{_FEATURES}.0.basis": (WIDTH, 1, FILTER, FILTER),
    **_encoder("aggregation", 2 * WIDTH, 3),
    "rope.freqs": (2, WIDTH),
    "cross_decode.conv2d.weight": (WIDTH, WIDTH, 3, 3),
    f"{_ATTENTION}.norm_q.weight": (WIDTH,),
    f"{_ATTENTION}.norm_k.weight": (WIDTH,),
    f"{_ATTENTION}.attention.in_proj_weight": (3 * WIDTH, WIDTH),
    f"{_ATTENTION}.attention.in_proj_bias": (3 * WIDTH,),
    # Of the values and what follows the heads: in the file, and without a part in the result.
    f"{_ATTENTION}.attention.out_proj.weight": (WIDTH, WIDTH),
    f"{_ATTENTION}.attention.out_proj.bias": (WIDTH,),
}
"""Name of each weight -> its shape."""


@dataclass(frozen=True)
class AnyUp:
    """The upsampler.

    Attributes:
        weights: Name -> tensor, float32, as `LAYOUT` says.
    """

    weights: Mapping[str, Tensor]

    @torch.no_grad()
    def __call__(
        self,
        pixels: Float[Tensor, "B 3 H W"],
        features: Float[Tensor, "B D h w"],
        values: Float[Tensor, "B C h w"],
    ) -> Float[Tensor, "B C H W"]:
        """Brings values of patches to the size of the pixels.

        Args:
            pixels: (B, 3, H, W) in [0, 1], RGB.
            features: (B, D, h, w), of the patches; at least two a side.
            values: (B, C, h, w), what is averaged; `features`, in the paper.

        Returns:
            (B, C, H, W) float32, means of values over windows of the patches.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            images = zip(pixels.float(), features.float(), values.float(), strict=True)
            return torch.cat([self._one(*(part[None] for part in image)) for image in images])

    def _one(
        self,
        pixels: Float[Tensor, "1 3 H W"],
        features: Float[Tensor, "1 D h w"],
        values: Float[Tensor, "1 C h w"],
    ) -> Float[Tensor, "1 C H W"]:
        mean, std = (pixels.new_tensor(one)[:, None, None] for one in (_MEAN, _STD))
        seen = self._turned(self._encoded("image_encoder", (pixels - mean) / std))
        grid = (features.shape[-2], features.shape[-1])
        near = F.adaptive_avg_pool2d(self._encoded("key_encoder", seen), grid)
        alike = self._blocks(_FEATURES, self._answers(F.normalize(features, dim=1)))
        keys = self._encoded("aggregation", torch.cat([near, alike], 1))
        queries = self._encoded("query_encoder", seen)
        queries = F.conv2d(queries, self.weights["cross_decode.conv2d.weight"], padding=1)
        return self._attended(queries, keys, values)

    def _encoded(self, name: str, maps: Float[Tensor, "1 C h w"]) -> Float[Tensor, "1 E h w"]:
        kernel = self.weights[f"{name}.0.weight"]
        border = kernel.shape[-1] // 2
        if border:
            maps = F.pad(maps, (border,) * 4, mode="reflect")
        return self._blocks(name, F.conv2d(maps, kernel))

    def _blocks(self, name: str, maps: Float[Tensor, "1 E h w"]) -> Float[Tensor, "1 E h w"]:
        """Adds what two halves of norm, SiLU and a linear map make of it, block by block."""
        for block in range(1, _BLOCKS + 1):
            found = maps
            for half in (0, 3):
                norm = f"{name}.{block}.block.{half}"
                scale, shift = self.weights[f"{norm}.weight"], self.weights[f"{norm}.bias"]
                found = F.silu(F.group_norm(found, _GROUPS, scale, shift))
                found = F.conv2d(found, self.weights[f"{name}.{block}.block.{half + 2}.weight"])
            maps = maps + found
        return maps

    def _turned(self, maps: Float[Tensor, "1 E H W"]) -> Float[Tensor, "1 E H W"]:
        """Turns pairs of channels by angles that grow with the place (rotary positions)."""
        rows, columns = (torch.linspace(0, 1, side, device=maps.device) for side in maps.shape[-2:])
        down, along = self.weights["rope.freqs"][:, :, None, None]
        angles = down * rows[:, None] + along * columns
        first, second = maps.chunk(2, 1)
        found: Tensor = maps * angles.cos() + torch.cat([-second, first], 1) * angles.sin()
        return found

    def _answers(self, features: Float[Tensor, "1 D h w"]) -> Float[Tensor, "1 E h w"]:
        """Makes features of any width as wide as all: answers of filters, compared and averaged.

        The paper compares the answers of one channel. The published model lays channels and filters
        out anew in between and compares what is then in a column, mostly answers of one filter in
        several channels; its weights are learnt so.
        """
        _, depth, height, width = features.shape
        border, filters = FILTER // 2, self.weights[f"{_FEATURES}.0.basis"].flatten(1)
        patches = F.unfold(features, FILTER, padding=border).view(depth, FILTER**2, -1)
        inside = F.unfold(features.new_ones(1, 1, height, width), FILTER, padding=border)[0].sum(0)
        found = []
        for some, count in zip(patches.split(_PLACES, 2), inside.split(_PLACES), strict=True):
            answers = (filters @ some / count).reshape(WIDTH, depth, -1)
            found.append(answers.softmax(0).mean(1))
        return torch.cat(found, 1).view(1, WIDTH, height, width)

    def _attended(
        self,
        queries: Float[Tensor, "1 E H W"],
        keys: Float[Tensor, "1 E h w"],
        values: Float[Tensor, "1 C h w"],
    ) -> Float[Tensor, "1 C H W"]:
        heads = [
            self._projected(maps, part, norm)
            for part, (maps, norm) in enumerate([(queries, "norm_q"), (keys, "norm_k")])
        ]
        asked, there = (one.view(HEADS, WIDTH // HEADS, *one.shape[1:]) for one in heads)
        found = values.new_empty(*values.shape[:2], *queries.shape[-2:])
        # Pixels that see the same patches are one product, so that none is masked.
        for some, rows in _windows(queries.shape[-2], keys.shape[-2]):
            for few, columns in _windows(queries.shape[-1], keys.shape[-1]):
                these = asked[..., some, few]
                logits = these.flatten(2).mT @ there[..., rows, columns].flatten(2)
                weights = (logits * (WIDTH // HEADS) ** -0.5).softmax(-1).mean(0)
                means = values[0, :, rows, columns].flatten(1) @ weights.mT
                found[0, :, some, few] = means.view(-1, *these.shape[-2:])
        return found

    def _projected(
        self, maps: Float[Tensor, "1 E h w"], part: int, norm: str
    ) -> Float[Tensor, "E h w"]:
        rows = F.rms_norm(
            maps[0].movedim(0, -1), (WIDTH,), self.weights[f"{_ATTENTION}.{norm}.weight"]
        )
        matrix, shift = (
            self.weights[f"{_ATTENTION}.attention.in_proj_{kind}"].split(WIDTH)[part]
            for kind in ("weight", "bias")
        )
        found: Tensor = F.linear(rows, matrix, shift).movedim(-1, 0)
        return found


def _windows(pixels: int, patches: int) -> Iterator[tuple[slice, slice]]:
    """Yields runs of pixels along one edge, each with the patches that all of the run see."""
    centres = (torch.arange(pixels, dtype=torch.float32) + 0.5) / pixels
    first = ((centres - REACH).clamp(0, 1) * patches).floor().int()
    end = ((centres + REACH).clamp(0, 1) * patches).ceil().int()
    pairs, counts = torch.stack([first, end], 1).unique_consecutive(dim=0, return_counts=True)
    start = 0
    for (low, high), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        yield slice(start, start + count), slice(low, high)
        start += count
