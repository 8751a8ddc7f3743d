"""From images to label maps: cluster scores, what refines them, and the largest of them.

On the path between a method (or the linear probe) and `evaluation`. Each refinement has a label
map of its own; what several have in common is computed once.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor

from usseg_ray.core.types import Batch, Images
from usseg_ray.methods.base import CodeClassifier, Method
from usseg_ray.ops.guided import guided
from usseg_ray.ops.largest import argmax
from usseg_ray.scoring.protocols import PLAIN, Refinement

Featurise = Callable[[Images], Batch]
CRF = Callable[[Tensor, Tensor], Tensor]
"""(B, K, H, W) float32 log-probabilities and (B, 3, H, W) uint8 pixels -> probabilities."""
Upsampler = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(B, 3, H, W) pixels in [0, 1], (B, D, h, w) tokens and (B, C, h, w) values -> (B, C, H, W)."""


@dataclass(frozen=True)
class Refiners:
    """What is made of scores beside the plain prediction.

    Attributes:
        refinements: Combinations of refiners.
        crf: The CRF, where one of them asks for it.
        anyup: What `anyup` upsamples by, where one of them asks for it.
    """

    refinements: tuple[Refinement, ...] = ()
    crf: CRF | None = None
    anyup: Upsampler | None = None


@runtime_checkable
class Scorer(Protocol):
    """What scores every token of an image for each of some outputs.

    Attributes:
        num_outputs: Clusters, or classes.
        sharpness: Scores times this are logits.
    """

    num_outputs: int
    sharpness: float

    def predict(self, batch: Batch) -> Float[Tensor, "B K h w"]:
        """Scores images."""

    def predict_mirrored(self, batch: Batch, mirrored: Batch) -> Float[Tensor, "B K h w"]:
        """Scores images by themselves and their mirror images together."""


class ClusterScorer:
    """A method's clusters as a `Scorer`.

    Args:
        method: Its clusters are fitted already.
    """

    def __init__(self, method: Method) -> None:
        self.num_outputs, self.sharpness = method.num_clusters, method.sharpness
        self.predict, self.predict_mirrored = method.predict, method.predict_mirrored


class PixelScorer:
    """A method's clusters as a `Scorer` that classifies codes at the size of the pixels.

    Args:
        method: Its clusters are fitted already.
        upsampler: Brings codes to that size; bilinear interpolation if unset.

    Reference:
        Evaluation of STEGO, HP, SmooSeg and CAUSE, official code.
    """

    def __init__(self, method: CodeClassifier, upsampler: Upsampler | None = None) -> None:
        self.method, self._upsampler = method, upsampler
        self.num_outputs, self.sharpness = method.num_clusters, method.sharpness

    def predict(self, batch: Batch) -> Float[Tensor, "B K H W"]:
        """Scores images, at the size of their pixels."""
        return self._classify(self.method.encode(batch), batch)

    def predict_mirrored(self, batch: Batch, mirrored: Batch) -> Float[Tensor, "B K H W"]:
        """Scores the mean of the codes of images and of their mirror images, at that size."""
        codes = self.method.encode(batch) + self.method.encode(mirrored).flip(-1)
        return self._classify(codes / 2, batch)

    @torch.no_grad()
    def _classify(self, codes: Float[Tensor, "B C h w"], batch: Batch) -> Float[Tensor, "B K H W"]:
        # One image at a time: codes of this size have gigabytes in a batch.
        size = _size(batch.pixels)
        if torch.compiler.is_compiling():  # a graph has no loop over images
            return self.method.classify(_upsampled(codes, size))
        one_by_one = (one.split(1) for one in (batch.pixels, batch.features.tokens, codes))
        large = (
            self._upsampler(pixels, tokens, one) if self._upsampler else _upsampled(one, size)
            for pixels, tokens, one in zip(*one_by_one, strict=True)
        )
        return torch.cat([self.method.classify(one) for one in large])


class UpsampledScorer:
    """A scorer whose scores of tokens are brought to the size of the pixels.

    Args:
        scorer: Scores the tokens.
        upsampler: Brings its scores to that size.
    """

    def __init__(self, scorer: Scorer, upsampler: Upsampler) -> None:
        self.num_outputs, self.sharpness = scorer.num_outputs, scorer.sharpness
        self._scorer, self._upsampler = scorer, upsampler

    def predict(self, batch: Batch) -> Float[Tensor, "B K H W"]:
        """Scores images, at the size of their pixels."""
        return self._large(self._scorer.predict(batch), batch)

    def predict_mirrored(self, batch: Batch, mirrored: Batch) -> Float[Tensor, "B K H W"]:
        """Scores images by themselves and their mirror images together, at that size."""
        return self._large(self._scorer.predict_mirrored(batch, mirrored), batch)

    def _large(self, scores: Float[Tensor, "B K h w"], batch: Batch) -> Float[Tensor, "B K H W"]:
        return self._upsampler(batch.pixels, batch.features.tokens, scores)


def scorer_of(method: Method, upsampled: Literal["scores", "codes"]) -> Scorer:
    """Makes a method's clusters a `Scorer`; see `protocols.Protocol.upsampled`."""
    if upsampled == "codes" and isinstance(method, CodeClassifier):
        return PixelScorer(method)
    return ClusterScorer(method)


def upsampled_by(scorer: Scorer, upsampler: Upsampler) -> Scorer:
    """Has a scorer score pixels: their codes where it classifies these, else scores of tokens."""
    if isinstance(scorer, PixelScorer):
        return PixelScorer(scorer.method, upsampler)
    return UpsampledScorer(scorer, upsampler)


def label_map(scores: Float[Tensor, "B K h w"], size: tuple[int, int]) -> Int64[Tensor, "B H W"]:
    """Upsamples cluster scores bilinearly and takes the largest.

    Args:
        scores: (B, K, h, w) cluster scores.
        size: (H, W) of the result, pixels.

    Returns:
        (B, H, W) int64, the cluster of every pixel.
    """
    return argmax(_upsampled(scores, size), 1)


def _upsampled(scores: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(scores.shape[-2:]) == size:
        return scores
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def _logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()


@dataclass(frozen=True)
class Predictor:
    """Makes label maps.

    Attributes:
        scorer: What scores tokens.
        featurise: Turns images into the scorer's batches.
        side: Side of the square that the scorer sees, pixels; larger images are seen through
            windows.
        refining: What there is to be beside the plain prediction.
        batch_size: Windows that are scored at a time.
    """

    scorer: Scorer
    featurise: Featurise
    side: int
    refining: Refiners = Refiners()
    batch_size: int = 16

    def predict(self, images: Images) -> "Prediction":
        """Starts predicting images of one size."""
        return Prediction(self, images)


class Prediction:
    """Cluster scores of some images, each kind computed when it is first asked for.

    Args:
        predictor: How they are computed.
        images: Images of one size.
    """

    def __init__(self, predictor: Predictor, images: Images) -> None:
        self._predictor, self._images = predictor, images
        self._found: dict[frozenset[str], Tensor] = {}

    def scores(self) -> Float[Tensor, "B K h w"]:
        """Returns the plain scores."""
        return self._scores(PLAIN)

    def logits(self, refinement: Refinement = PLAIN) -> Float[Tensor, "B K h w"]:
        """Returns what the softmax over K makes probabilities of.

        Args:
            refinement: The plain prediction's, or that of one of the predictor's refinements.
        """
        scores = self._refined(refinement).float()
        if "crf" in refinement or "guided" in refinement:
            return _logarithm(scores)
        return self._predictor.scorer.sharpness * scores

    def label_maps(self, size: tuple[int, int]) -> dict[Refinement, Int64[Tensor, "B H W"]]:
        """Finds the cluster of every pixel, plainly and by each refinement.

        Args:
            size: (H, W) of the maps, pixels.
        """
        return {
            refinement: label_map(self._refined(refinement), size)
            for refinement in (PLAIN, *self._predictor.refining.refinements)
        }

    def _refined(self, refinement: Refinement) -> Float[Tensor, "B K h w"]:
        scores = self._scores(refinement)
        if "crf" not in refinement and "guided" not in refinement:
            return scores
        # At the size of the pixels: neighbours in an image are what these two are about.
        sharp = self._predictor.scorer.sharpness * _upsampled(scores, _size(self._images.pixels))
        pixels, logarithms = self._images.pixels.to(sharp.device), sharp.log_softmax(1)
        if "guided" in refinement:
            probabilities = guided(logarithms.exp(), pixels)
            if "crf" not in refinement:
                return probabilities
            logarithms = _logarithm(probabilities)
        crf = self._predictor.refining.crf
        if crf is None:
            raise TypeError("a refinement with a CRF needs one")
        return crf(logarithms, pixels)

    def _scores(self, refinement: Refinement) -> Float[Tensor, "B K h w"]:
        asked = frozenset(refinement.refiners) & {"flip", "sliding", "anyup"}
        if asked not in self._found:
            side, (height, width) = self._predictor.side, _size(self._images.pixels)
            self._found[asked] = (
                self._predict(self._images, refinement)
                if (height, width) == (side, side)
                else self._through_windows(refinement)
            )
        return self._found[asked]

    def _predict(self, images: Images, refinement: Refinement) -> Float[Tensor, "B K h w"]:
        scorer, featurise = self._predictor.scorer, self._predictor.featurise
        if "anyup" in refinement:
            upsampler = self._predictor.refining.anyup
            if upsampler is None:
                raise TypeError("a refinement with AnyUp needs its upsampler")
            scorer = upsampled_by(scorer, upsampler)
        if "flip" not in refinement:
            return scorer.predict(featurise(images))
        mirrored = Images(images.ids, images.pixels.flip(-1))
        return scorer.predict_mirrored(featurise(images), featurise(mirrored))

    def _through_windows(self, refinement: Refinement) -> Float[Tensor, "B K H W"]:
        """Scores every pixel by the windows that see it.

        Without overlap a pixel belongs to the window whose centre is nearest; with it (`sliding`),
        its scores are the mean over all windows that contain it.
        """
        overlap = "sliding" in refinement
        side, pixels = self._predictor.side, self._images.pixels
        height, width = _size(pixels)
        rows, columns = (window_spans(length, side, overlap) for length in (height, width))
        windows = [(row, column) for row in rows for column in columns]
        total = weight = None
        for (row, column), scores in zip(windows, self._windows(windows, refinement), strict=True):
            if total is None or weight is None:
                total = scores.new_zeros(*scores.shape[:2], height, width)
                weight = scores.new_zeros(height, width)
            there = (slice(row.first, row.end), slice(column.first, column.end))
            here = (
                slice(row.first - row.start, row.end - row.start),
                slice(column.first - column.start, column.end - column.start),
            )
            total[:, :, *there] += scores[:, :, *here]
            weight[there] += 1
        if total is None or weight is None:
            raise ValueError("an image without pixels")
        return total / weight

    def _windows(
        self, windows: list[tuple["Span", "Span"]], refinement: Refinement
    ) -> Iterator[Float[Tensor, "B K S S"]]:
        """Scores windows, as many at a time as a batch holds."""
        side, images = self._predictor.side, self._images
        count = max(1, self._predictor.batch_size // len(images.ids))
        for index in range(0, len(windows), count):
            chosen = windows[index : index + count]
            pixels = [
                images.pixels.narrow(2, row.start, side).narrow(3, column.start, side)
                for row, column in chosen
            ]
            seen = Images(images.ids * len(chosen), torch.cat(pixels))
            scores = _upsampled(self._predict(seen, refinement), (side, side))
            yield from scores.chunk(len(chosen))


class Span(NamedTuple):
    """A window along one edge of an image, pixels.

    Attributes:
        start: The first pixel that it sees.
        first: The first pixel that it scores.
        end: The one after the last that it scores.
    """

    start: int
    first: int
    end: int


def window_spans(length: int, side: int, overlap: bool) -> list[Span]:
    """Places windows evenly along an edge so that they cover it.

    Args:
        length: Of the edge, pixels; at least `side`.
        side: Of a window, pixels.
        overlap: Whether neighbours share at least half of a window, and score all that they see.
            Else there are as few as cover the edge, and each scores what lies nearest to it.
    """
    count = 1 + math.ceil((length - side) / (side / 2 if overlap else side))
    starts = [round(index * (length - side) / max(count - 1, 1)) for index in range(count)]
    if overlap:
        return [Span(start, start, start + side) for start in starts]
    borders = [(one + other + side) // 2 for one, other in pairwise(starts)]
    return [*map(Span, starts, [0, *borders], [*borders, length])]


def _size(pixels: Tensor) -> tuple[int, int]:
    return pixels.shape[-2], pixels.shape[-1]
