from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from usseg_ray.core import types as words
from usseg_ray.core.config import MethodConfig
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, Images, LabelledImages
from usseg_ray.methods.base import Method, Passes
from usseg_ray.scoring.evaluation import (
    Evaluation,
    GroundTruth,
    evaluate,
    score_metrics,
    segment,
    show,
    telling_rows,
)
from usseg_ray.scoring.metrics import MatchedCounts, Scores
from usseg_ray.scoring.prediction import CRF, ClusterScorer, Predictor, Refiners
from usseg_ray.scoring.protocols import PLAIN, Refinement

IGNORE = 5
TRUTH = GroundTruth(("red", "green", "blue"), IGNORE)
CPU = torch.device("cpu")
SPEC = FeatureSpec(dim=3, patch_size=1, has_attention=False)


class Brightest(Method):
    """Its clusters are the colour channels; nothing is learnt."""

    name = "brightest"
    Config = MethodConfig
    stages = ()

    def fit_clusters(self, passes: Passes) -> None:  # noqa: ARG002
        raise AssertionError("scoring a fitted method must not fit it again")

    def describe(self, batch: Batch) -> Tensor:
        return batch.features.tokens

    def predict(self, batch: Batch) -> Tensor:
        return batch.features.tokens


def method() -> Brightest:
    return Brightest(MethodConfig(), SPEC, 3, 0)


def featurise(images: Images) -> Batch:
    pixels = images.pixels.float() / 255
    return Batch(images.ids, pixels, FeatureMap(pixels))


def predictor(*refinements: str, crf: CRF | None = None) -> Predictor:
    chosen = tuple(map(Refinement.parse, refinements))
    return Predictor(ClusterScorer(method()), featurise, 8, Refiners(chosen, crf))


def evaluated(labelled: Iterable[LabelledImages], expected: int, **settings: Any) -> Evaluation:
    made = settings.pop("predictor", predictor())
    return evaluate(made, labelled, TRUTH, expected_rows=expected, device=CPU, **settings)


def scores_of(evaluation: Evaluation) -> Scores:
    assert evaluation.scores is not None
    return evaluation.scores


def scenes(count: int, wrong: int = 0) -> tuple[Tensor, Tensor]:
    """Draws pixels of pure colour whose labels are the colours' numbers in another order."""
    generator = shared_generator("scenes", count)
    colour = torch.randint(0, 3, (count, 8, 8), generator=generator)
    labels = torch.tensor([2, 0, 1])[colour]
    labels[:, 0] = IGNORE
    labels.view(-1)[20 : 20 + wrong] = (labels.view(-1)[20 : 20 + wrong] + 1) % 3
    pixels = torch.nn.functional.one_hot(colour, 3).permute(0, 3, 1, 2) * 255
    return pixels.to(torch.uint8), labels


def batches(count: int, size: int, wrong: int = 0) -> Iterator[LabelledImages]:
    pixels, labels = scenes(count, wrong)
    for start in range(0, count, size):
        part = slice(start, start + size)
        numbers = tuple(range(count)[part])
        ids = tuple(f"scene-{number}" for number in numbers)
        yield LabelledImages(Images(ids, pixels[part]), labels[part], numbers)


def test_right_predictions_score_100_whatever_the_clusters_are_called() -> None:
    found = evaluated(batches(5, 2), 5)
    scores = scores_of(found)
    assert (scores.unsup_miou, scores.unsup_acc) == (100, 100)
    assert scores.class_of.tolist() == [2, 0, 1]
    assert found.rows == 5
    assert found.results[PLAIN].boundary_f == 100
    # The first row of every image does not count.
    assert scores.confusion.sum() == 5 * 7 * 8


def test_clusters_are_as_large_as_they_are_on_all_pixels() -> None:
    # All that is not red lies where no label counts.
    colour = torch.zeros(2, 8, 8, dtype=torch.int64)
    colour[:, :2] = 1
    labels = torch.full((2, 8, 8), IGNORE).where(colour == 1, 0)
    pixels = torch.nn.functional.one_hot(colour, 3).permute(0, 3, 1, 2) * 255
    images = Images(("a", "b"), pixels.to(torch.uint8))
    scores = scores_of(evaluated([LabelledImages(images, labels, (0, 1))], 2))
    assert scores.confusion.sum() == 2 * 6 * 8
    assert (scores.used_clusters, scores.largest_share, scores.collapsed) == (1, 75.0, False)
    shares = np.array([0.75, 0.25])
    assert scores.entropy == pytest.approx(-100 * (shares * np.log(shares)).sum() / np.log(3))


@pytest.mark.parametrize("size", [1, 3, 7])
def test_one_matrix_however_the_split_is_batched(size: int) -> None:
    whole = evaluated(batches(7, 7, wrong=12), 7)
    parts = evaluated(batches(7, size, wrong=12), 7)
    assert np.array_equal(scores_of(parts).confusion, scores_of(whole).confusion)
    assert scores_of(parts).unsup_miou == scores_of(whole).unsup_miou < 100
    assert scores_of(whole).unsup_acc == pytest.approx(100 * (7 * 56 - 12) / (7 * 56))
    assert parts.results[PLAIN].boundary_f == whole.results[PLAIN].boundary_f
    assert np.array_equal(parts.image_miou, whole.image_miou)
    assert np.array_equal(parts.patches.pixels, whole.patches.pixels)


@pytest.mark.parametrize("expected", [4, 6])
def test_a_lost_or_doubled_row_stops_the_run(expected: int) -> None:
    with pytest.raises(RuntimeError, match=f"walked 5 images, the split has {expected}"):
        evaluated(batches(5, 2), expected)


def test_no_image_at_all_is_no_score() -> None:
    with pytest.raises(ValueError, match="not one labelled pixel"):
        evaluated(iter(()), 0)


def test_every_image_has_a_score_of_its_own() -> None:
    found = evaluated(batches(4, 3, wrong=30), 4)
    assert found.numbers.tolist() == [0, 1, 2, 3]
    assert found.image_miou[0] < 100
    assert found.image_miou[1:].tolist() == [100] * 3


def test_refinements_are_scored_apart() -> None:
    def blind(log_probs: Tensor, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.uint8
        assert torch.allclose(log_probs.exp().sum(1), torch.ones(()))
        return torch.ones_like(log_probs)

    made = predictor("flip", "crf", "flip+crf", crf=blind)
    found = evaluated(batches(5, 2), 5, predictor=made)
    names = [refinement.prefix for refinement in found.results]
    assert names == ["", "flip.", "crf.", "flip_crf."]
    accuracy = [result.scores.unsup_acc for result in found.results.values()]
    # Pixels of pure colour: mirrored twice they say the same, and a blind CRF says nothing.
    assert accuracy[:2] == [100, 100]
    assert accuracy[2] == accuracy[3] < 50
    metrics = score_metrics(found, TRUTH)
    assert metrics["flip_crf.unsup_acc"] == accuracy[3]
    assert metrics["unsup_acc"] == 100
    assert metrics["evaluated_images"] == 5


def counts_of(*miou: int | None) -> MatchedCounts:
    """Counts of images of one class, each with an mIoU in whole percent, or without a label."""
    hits = np.array([[one or 0] for one in miou])
    return MatchedCounts(hits, hits, np.array([[0 if one is None else 100] for one in miou]))


def test_what_is_shown_went_well_middling_and_badly() -> None:
    found = evaluated(batches(9, 2, wrong=30), 9)
    counts = counts_of(90, 10, 80, 20, 70, 30, 60, 40, None)
    chosen = telling_rows(replace(found, counts=counts))
    # From all over the split, in every run alike, and then what this one did with it.
    assert list(chosen.items()) == [(1, "worst"), (3, ""), (5, ""), (7, "median"), (0, "best")]
    few = replace(found, numbers=found.numbers[:2], counts=counts_of(90, 10))
    assert telling_rows(few) == {0: "best", 1: "worst"}


def test_shown_images_come_with_labels_clusters_and_captions() -> None:
    found = evaluated(batches(5, 2), 5)
    found = replace(found, counts=counts_of(5, 4, 3, 2, 1))
    rows = (one for one in batches(5, 1) if one.numbers[0] in telling_rows(found))
    shown = show(predictor(), rows, found)
    pixels, labels = scenes(5)
    assert shown.captions == [
        "best: scene-0, mIoU 5.0",
        "scene-1, mIoU 4.0",
        "scene-3, mIoU 2.0",
        "worst: scene-4, mIoU 1.0",
        "median: scene-2, mIoU 3.0",
    ]
    for place, number in enumerate((0, 1, 3, 4, 2)):
        assert np.array_equal(shown.pixels[place], pixels[number].permute(1, 2, 0).numpy())
        assert np.array_equal(shown.labels[place], labels[number].numpy())
        assert np.array_equal(shown.clusters[place], pixels[number].argmax(0).numpy())


@pytest.mark.parametrize(
    ("count", "shown"), [(3, "beh"), (9, "abcdefghi"), (99, "abcdefghi"), (1, "e")]
)
def test_without_labels_images_from_all_over_are_shown(count: int, shown: str) -> None:
    pixels, _ = scenes(9)
    parts = (Images(tuple("abcdefghi"[i : i + 2]), pixels[i : i + 2]) for i in range(0, 9, 2))
    found = segment(predictor(), parts, num_examples=count)
    assert found.scores is None
    assert found.rows == 9
    assert found.examples.labels == []
    assert found.examples.captions == list(shown)
    last = "abcdefghi".index(shown[-1])
    assert np.array_equal(found.examples.clusters[-1], pixels[last].argmax(0).numpy())
    assert score_metrics(found, TRUTH) == {}


def test_a_worker_without_images_shows_none() -> None:
    found = segment(predictor(), [])
    assert (found.rows, found.examples.captions) == (0, [])


def test_a_method_cannot_be_given_labels() -> None:
    def reachable(kind: type) -> Iterator[str]:
        for field in fields(kind):
            yield field.name
            inner = getattr(words, str(field.type), field.type)
            for part in (inner, *get_args(inner)):
                if isinstance(part, type) and is_dataclass(part):
                    yield from reachable(part)

    views = {"first", "second", "crop", "flip"}
    features = {"tokens", "saliency", "local", "block_input", "rope", "masks"}
    step = {"index", "total", "in_epoch"}
    own = {"ids", "pixels", "features", "step", "augmented", "positive", "pair", "crop_tokens"}
    assert set(reachable(Batch)) == own | features | step | views
    rows = {"rows", "positive_rows", "split", "view", "crops", "draws", "begun"}
    # How a row is shown, and nothing of what it shows.
    rows |= {
        "frame",
        "size",
        "crop",
        "filter",
        "policy",
        "scale",
        "flip",
        "ratios",
        "jpeg",
        "jitter",
    }
    images = {"ids", "pixels", "positive", "first", "geometry"} | rows
    assert set(reachable(LabelledImages)) == {"images", "labels", "numbers"} | images
    assert not issubclass(LabelledImages, Batch)
