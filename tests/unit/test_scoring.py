from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from usseg_ray import batch as words
from usseg_ray import scoring as subject
from usseg_ray.batch import Batch, FeatureMap, FeatureSpec, Images, LabelledImages
from usseg_ray.config import MethodConfig
from usseg_ray.distributed import shared_generator
from usseg_ray.methods.base import Method, Passes
from usseg_ray.scoring import GroundTruth, evaluate, label_map, linear_ceiling, segment

IGNORE = 5
TRUTH = GroundTruth(("red", "green", "blue"), IGNORE)
SPEC = FeatureSpec(dim=3, patch_size=1, has_attention=False)


class Brightest(Method):
    """Its clusters are the colour channels; nothing is learnt."""

    name = "brightest"
    Config = MethodConfig
    stages = ()

    def fit_clusters(self, passes: Passes) -> None:  # noqa: ARG002
        raise AssertionError("scoring a fitted method must not fit it again")

    def encode(self, batch: Batch) -> Tensor:
        return batch.features.tokens

    def predict(self, batch: Batch) -> Tensor:
        return batch.features.tokens


def method() -> Brightest:
    return Brightest(MethodConfig(), SPEC, 3, 0)


def featurise(images: Images) -> Batch:
    pixels = images.pixels.float() / 255
    return Batch(images.ids, pixels, FeatureMap(pixels))


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
        ids = tuple(f"scene-{i}" for i in range(count)[part])
        yield LabelledImages(Images(ids, pixels[part]), labels[part])


def test_right_predictions_score_100_whatever_the_clusters_are_called() -> None:
    found = evaluate(method(), featurise, batches(5, 2), TRUTH, expected_rows=5)
    assert found.scores is not None
    assert (found.scores.unsup_miou, found.scores.unsup_acc) == (100, 100)
    assert found.scores.class_of.tolist() == [2, 0, 1]
    assert found.rows == 5
    # The first row of every image does not count.
    assert found.scores.confusion.sum() == 5 * 7 * 8


@pytest.mark.parametrize("size", [1, 3, 7])
def test_one_matrix_however_the_split_is_batched(size: int) -> None:
    whole = evaluate(method(), featurise, batches(7, 7, wrong=12), TRUTH, expected_rows=7).scores
    parts = evaluate(method(), featurise, batches(7, size, wrong=12), TRUTH, expected_rows=7).scores
    assert whole is not None
    assert parts is not None
    assert np.array_equal(parts.confusion, whole.confusion)
    assert parts.unsup_miou == whole.unsup_miou < 100
    assert whole.unsup_acc == pytest.approx(100 * (7 * 56 - 12) / (7 * 56))


@pytest.mark.parametrize("expected", [4, 6])
def test_a_lost_or_doubled_row_stops_the_run(expected: int) -> None:
    with pytest.raises(RuntimeError, match=f"walked 5 images, the split has {expected}"):
        evaluate(method(), featurise, batches(5, 2), TRUTH, expected_rows=expected)


def test_no_image_at_all_is_no_score() -> None:
    with pytest.raises(ValueError, match="not one labelled pixel"):
        evaluate(method(), featurise, iter(()), TRUTH, expected_rows=0)


def test_the_first_images_are_kept_for_pictures() -> None:
    found = evaluate(
        method(), featurise, batches(5, 2), TRUTH, expected_rows=5, num_examples=3
    ).examples
    pixels, labels = scenes(5)
    assert len(found.pixels) == len(found.labels) == len(found.clusters) == 3
    for i in range(3):
        assert np.array_equal(found.pixels[i], pixels[i].permute(1, 2, 0).numpy())
        assert np.array_equal(found.labels[i], labels[i].numpy())
        assert np.array_equal(found.clusters[i], pixels[i].argmax(0).numpy())


def test_segment_stops_after_the_pictures() -> None:
    pixels, _ = scenes(9)
    walked = 0

    def images() -> Iterator[Images]:
        nonlocal walked
        for i in range(0, 9, 2):
            walked += 1
            yield Images(tuple("abcdefghi"[i : i + 2]), pixels[i : i + 2])

    found = segment(method(), featurise, images(), num_examples=3)
    assert found.scores is None
    assert (found.rows, walked) == (3, 2)
    assert found.examples.labels == []
    assert np.array_equal(found.examples.clusters[2], pixels[2].argmax(0).numpy())


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


def test_a_method_cannot_be_given_labels() -> None:
    def reachable(kind: type) -> Iterator[str]:
        for field in fields(kind):
            yield field.name
            inner = getattr(words, str(field.type), field.type)
            for part in (inner, *get_args(inner)):
                if isinstance(part, type) and is_dataclass(part):
                    yield from reachable(part)

    views = {"first", "second", "crop", "flip"}
    features = {"tokens", "saliency", "local"}
    step = {"index", "total", "in_epoch"}
    own = {"ids", "pixels", "features", "step", "augmented", "positive", "pair", "crop_tokens"}
    assert set(reachable(Batch)) == own | features | step | views
    images = {"ids", "pixels", "positive", "first", "geometry"}
    assert set(reachable(LabelledImages)) == {"images", "labels"} | images
    assert not issubclass(LabelledImages, Batch)


def separable(seed: str, count: int) -> list[LabelledImages]:
    """Images whose labels are a linear function of their codes, with some that do not count."""
    found = []
    for number in range(count):
        generator = shared_generator(seed, number)
        pixels = torch.randint(0, 256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
        labels = pixels.float().argmax(1)
        labels[:, :, 0] = IGNORE
        found.append(LabelledImages(Images((f"{number}a", f"{number}b"), pixels), labels))
    return found


def encode(images: Images) -> Tensor:
    mixing = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, -1.0], [1.0, 0.0, 3.0]])
    return torch.einsum("dc,bchw->bdhw", mixing, images.pixels.float()) + 500


def test_ceiling_of_linearly_separable_codes() -> None:
    train, test = separable("train", 30), separable("test", 4)
    found = linear_ceiling(encode, lambda: train, test, TRUTH, seed=0, epochs=80)
    assert found.unsup_acc > 97
    assert found.unsup_miou > 95
    assert found.class_of.tolist() == [0, 1, 2]
    assert found.confusion.sum() == 4 * 2 * 56


def test_ceiling_of_codes_that_say_nothing() -> None:
    train, test = separable("train", 10), separable("test", 4)

    def blind(images: Images) -> Tensor:
        return torch.ones(len(images.ids), 2, 8, 8)

    found = linear_ceiling(blind, lambda: train, test, TRUTH, seed=0)
    assert found.used_clusters == 1


def test_ceiling_depends_on_its_seed_alone() -> None:
    train, test = separable("train", 5), separable("test", 2)
    first, again = (
        linear_ceiling(encode, lambda: train, test, TRUTH, seed=3, epochs=2).confusion
        for _ in range(2)
    )
    assert np.array_equal(first, again)


def test_ceiling_reads_tokens_coarser_than_labels() -> None:
    quarters = torch.tensor([[0, 1], [2, 0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    pixels = (torch.nn.functional.one_hot(quarters, 3).permute(2, 0, 1) * 255).to(torch.uint8)
    one = LabelledImages(Images(("a",), pixels[None]), quarters[None])

    def pooled(images: Images) -> Tensor:
        return torch.nn.functional.avg_pool2d(images.pixels.float(), 4)

    found = linear_ceiling(pooled, lambda: [one], [one], TRUTH, seed=0, epochs=200)
    assert found.unsup_acc > 90


def test_ceiling_refuses_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="one process"):
        linear_ceiling(encode, lambda: separable("train", 1), [], TRUTH, seed=0)
