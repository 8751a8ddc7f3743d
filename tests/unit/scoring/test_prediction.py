import math
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from tests import tiny
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, Images
from usseg_ray.methods import get
from usseg_ray.methods.base import Method
from usseg_ray.methods.kmeans import KMeans
from usseg_ray.ops.guided import guided
from usseg_ray.scoring.prediction import (
    CRF,
    ClusterScorer,
    PixelScorer,
    Predictor,
    Refiners,
    label_map,
    scorer_of,
    upsampled_by,
    window_spans,
)
from usseg_ray.scoring.protocols import PLAIN, Refinement
from usseg_ray.settings.kmeans import KMeansConfig

SIDE = 8


class Mean:
    """Scores each pixel by its own values and the mean of its window; counts what it sees."""

    num_outputs, sharpness = 3, 2.0

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, batch: Batch) -> Tensor:
        self.batches.append(len(batch.ids))
        assert batch.pixels.shape[-2:] == (SIDE, SIDE)
        return batch.pixels + batch.pixels.mean((2, 3), keepdim=True)

    def predict_mirrored(self, batch: Batch, mirrored: Batch) -> Tensor:
        return (self.predict(batch) + 3 * self.predict(mirrored).flip(-1)) / 4


def featurise(images: Images) -> Batch:
    pixels = images.pixels.float() / 255
    return Batch(images.ids, pixels, FeatureMap(pixels))


def some(height: int, width: int, count: int = 1) -> Images:
    random = shared_generator("images", height, width)
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=random, dtype=torch.uint8)
    return Images(tuple(str(i) for i in range(count)), pixels)


def predictor(*refinements: str, crf: CRF | None = None, batch_size: int = 16) -> Predictor:
    chosen = tuple(map(Refinement.parse, refinements))
    return Predictor(Mean(), featurise, SIDE, Refiners(chosen, crf), batch_size)


def by_windows(images: Images, *, overlap: bool) -> Tensor:
    """A loop over pixels: which windows score each, and the mean of what they say."""
    height, width = images.pixels.shape[-2:]
    step = SIDE / 2 if overlap else SIDE
    starts = []
    for length in (height, width):
        count = 1 + math.ceil((length - SIDE) / step)
        starts.append([round(i * (length - SIDE) / max(count - 1, 1)) for i in range(count)])
    found = torch.zeros(1, 3, height, width)

    def scored_by(starts: list[int], pixel: int) -> list[int]:
        seen = [start for start in starts if start <= pixel < start + SIDE]
        # Of two windows that are equally near, the later one.
        nearest = min(seen, key=lambda start: (abs(start + SIDE / 2 - 0.5 - pixel), -start))
        return seen if overlap else [nearest]

    for y in range(height):
        for x in range(width):
            values = []
            for top, left in product(scored_by(starts[0], y), scored_by(starts[1], x)):
                window = images.pixels[:, :, top : top + SIDE, left : left + SIDE].float() / 255
                values.append(window[0, :, y - top, x - left] + window[0].mean((1, 2)))
            found[0, :, y, x] = torch.stack(values).mean(0)
    return found


@pytest.mark.parametrize("size", [(8, 8), (8, 11), (8, 30), (17, 8), (12, 13)])
@pytest.mark.parametrize("overlap", [False, True])
def test_windows_are_those_of_a_loop_over_pixels(size: tuple[int, int], overlap: bool) -> None:
    images = some(*size)
    prediction = predictor("sliding", batch_size=3).predict(images)
    found = prediction._scores(Refinement(("sliding",)) if overlap else PLAIN)
    torch.testing.assert_close(found, by_windows(images, overlap=overlap))


@given(st.integers(0, 200), st.integers(4, 40), st.booleans())
def test_windows_cover_an_edge(longer: int, side: int, overlap: bool) -> None:
    length = side + longer
    spans = window_spans(length, side, overlap)
    covered = [0] * length
    for span in spans:
        assert 0 <= span.start <= span.first < span.end <= span.start + side <= length
        for pixel in range(span.first, span.end):
            covered[pixel] += 1
    if overlap:
        assert min(covered) >= 1
        assert all(two.start - one.start <= math.ceil(side / 2) for one, two in pairwise(spans))
    else:
        assert covered == [1] * length
        assert len(spans) == math.ceil(length / side)


def test_no_more_windows_than_a_batch_holds_are_scored_at_a_time() -> None:
    made = predictor(batch_size=3)
    made.predict(some(8, 60)).scores()
    scorer = made.scorer
    assert isinstance(scorer, Mean)
    assert scorer.batches == [3, 3, 2]


def test_what_refinements_share_is_computed_once() -> None:
    made = predictor("flip", "flip+crf", crf=lambda log_probs, _: log_probs)
    maps = made.predict(some(8, 8, 4)).label_maps((8, 8))
    assert list(maps) == [PLAIN, Refinement(("flip",)), Refinement(("flip", "crf"))]
    scorer = made.scorer
    assert isinstance(scorer, Mean)
    assert scorer.batches == [4, 4, 4]


def test_a_mirror_image_is_scored_the_right_way_round() -> None:
    images = some(8, 8, 2)
    pixels = images.pixels.float() / 255
    plain = pixels + pixels.mean((2, 3), keepdim=True)
    made = predictor("flip")
    assert torch.allclose(made.predict(images)._scores(Refinement(("flip",))), plain)


def test_a_crf_gets_probabilities_at_the_size_of_the_pixels() -> None:
    given_to: list[tuple[Tensor, Tensor]] = []

    def crf(log_probs: Tensor, pixels: Tensor) -> Tensor:
        given_to.append((log_probs, pixels))
        return log_probs.flip(1)

    images = some(8, 20)
    prediction = predictor("crf", crf=crf).predict(images)
    maps = prediction.label_maps((16, 40))
    ((log_probs, pixels),) = given_to
    assert torch.equal(pixels, images.pixels)
    expected = (2.0 * prediction.scores()).log_softmax(1)
    torch.testing.assert_close(log_probs, expected)
    assert torch.equal(maps[Refinement(("crf",))], label_map(expected.flip(1), (16, 40)))


def test_codes_may_be_classified_at_the_size_of_the_pixels() -> None:
    config = KMeansConfig(spherical=True)
    method = KMeans(config, FeatureSpec(4, 4, has_attention=False), 3, seed=0)
    random = shared_generator("centroids")
    method.centroids.copy_(torch.randn(3, 4, generator=random))
    tokens, other = torch.randn(2, 2, 4, 5, 6, generator=random)
    pixels = torch.zeros(2, 3, 20, 24)
    batch = Batch(("a", "b"), pixels, FeatureMap(tokens))
    mirrored = Batch(("a", "b"), pixels, FeatureMap(other))
    scorer = scorer_of(method, "codes")

    def by_hand(codes: Tensor) -> Tensor:
        size = (20, 24)
        codes = torch.nn.functional.interpolate(codes, size, mode="bilinear", align_corners=False)
        pairs = codes[:, None], method.centroids[None, :, :, None, None]
        return torch.nn.functional.cosine_similarity(*pairs, dim=2)

    torch.testing.assert_close(scorer.predict(batch), by_hand(tokens))
    mean = (tokens + other.flip(-1)) / 2
    torch.testing.assert_close(scorer.predict_mirrored(batch, mirrored), by_hand(mean))
    assert not torch.allclose(scorer.predict(batch)[..., ::4, ::4], method.predict(batch))


def test_who_has_no_codes_is_scored_by_scores() -> None:
    method = tiny_acseg()
    assert isinstance(scorer_of(method, "codes"), ClusterScorer)
    assert isinstance(scorer_of(method, "scores"), ClusterScorer)


def tiny_acseg() -> Method:
    settings = tiny.config("acseg").method
    return get("acseg")(settings, FeatureSpec(15, 8, has_attention=False), 3, seed=0)


def test_a_guided_prediction_follows_the_colours() -> None:
    images = some(16, 40)
    made = predictor("guided", "guided+crf", crf=lambda log_probs, _: log_probs.exp())
    prediction = made.predict(images)
    scores = interpolate(prediction.scores(), size=(16, 40), mode="bilinear")
    expected = guided((2.0 * scores).softmax(1), images.pixels)
    maps = prediction.label_maps((16, 40))
    assert torch.equal(maps[Refinement(("guided",))], expected.argmax(1))
    assert torch.equal(maps[Refinement(("guided", "crf"))], expected.argmax(1))
    found = prediction.logits(Refinement(("guided",))).softmax(1)
    torch.testing.assert_close(found, expected.clamp(min=0) / expected.clamp(min=0).sum(1))


def test_without_a_crf_there_is_none() -> None:
    with pytest.raises(TypeError, match="needs one"):
        predictor("crf").predict(some(8, 8)).label_maps((8, 8))
    with pytest.raises(TypeError, match="needs its upsampler"):
        predictor("anyup").predict(some(8, 8)).label_maps((8, 8))


def enlarged(pixels: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
    """In place of AnyUp: steps where its grid does, and depends on all that it is given."""
    size = (pixels.shape[-2], pixels.shape[-1])
    return interpolate(values * tokens.mean(1, keepdim=True), size=size) + pixels[:, :1]


def test_what_classifies_codes_does_so_where_they_are_upsampled() -> None:
    config = KMeansConfig(spherical=True)
    method = KMeans(config, FeatureSpec(15, 8, has_attention=False), 3, seed=0)
    method.centroids.copy_(torch.randn(3, 15, generator=shared_generator("centroids")))
    random = shared_generator("tokens")
    tokens, other = torch.randn(2, 2, 15, 4, 5, generator=random)
    pixels = torch.rand(2, 3, 32, 40, generator=random)
    batch, mirrored = (Batch(("a", "b"), pixels, FeatureMap(one)) for one in (tokens, other))

    scorer = upsampled_by(PixelScorer(method), enlarged)
    expected = method.classify(enlarged(pixels, tokens, tokens))
    torch.testing.assert_close(scorer.predict(batch), expected)
    mean = (tokens + other.flip(-1)) / 2
    expected = method.classify(enlarged(pixels, tokens, mean))
    torch.testing.assert_close(scorer.predict_mirrored(batch, mirrored), expected)

    scorer = upsampled_by(ClusterScorer(method), enlarged)
    expected = enlarged(pixels, tokens, method.predict(batch))
    torch.testing.assert_close(scorer.predict(batch), expected)
    assert (scorer.num_outputs, scorer.sharpness) == (3, method.sharpness)
    expected = enlarged(pixels, tokens, method.predict_mirrored(batch, mirrored))
    torch.testing.assert_close(scorer.predict_mirrored(batch, mirrored), expected)


def test_upsampled_scores_go_on_to_what_follows() -> None:
    images = some(SIDE, SIDE)
    refining = Refiners((Refinement.parse("guided+anyup"),), anyup=enlarged)
    made = Predictor(Mean(), featurise, SIDE, refining)
    batch = featurise(images)
    scores = enlarged(batch.pixels, batch.pixels, Mean().predict(batch))
    expected = guided((2.0 * scores).softmax(1), images.pixels).argmax(1)
    maps = made.predict(images).label_maps((SIDE, SIDE))
    assert torch.equal(maps[Refinement(("anyup", "guided"))], expected)


def test_a_label_map_of_scores_at_full_size_is_their_argmax() -> None:
    scores = torch.randn(2, 4, 6, 5, generator=shared_generator("scores"))
    found = label_map(scores, (6, 5))
    assert found.dtype == torch.int64
    assert torch.equal(found, scores.argmax(1))


@pytest.mark.parametrize("size", [(16, 12), (9, 7), (3, 2)])
def test_a_label_map_has_the_size_asked_for(size: tuple[int, int]) -> None:
    scores = torch.randn(2, 3, 4, 3, generator=shared_generator("scores"))
    found = label_map(scores, size)
    assert found.shape == (2, *size)
    assert set(found.unique().tolist()) <= {0, 1, 2}


def test_a_label_map_is_aligned_with_its_tokens() -> None:
    """A token's area is centred on it: the border between two tokens falls midway."""
    scores = torch.zeros(1, 2, 1, 4)
    scores[0, 1, 0, 2:] = 1
    scores[0, 0, 0, :2] = 1
    assert label_map(scores, (1, 16)).squeeze().tolist() == [0] * 8 + [1] * 8
