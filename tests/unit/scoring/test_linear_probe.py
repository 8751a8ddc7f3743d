from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.types import Batch, FeatureMap, Images, LabelledImages
from usseg_ray.scoring import linear_probe as subject
from usseg_ray.scoring.evaluation import GroundTruth, evaluate
from usseg_ray.scoring.linear_probe import Encode, fit_linear_probe
from usseg_ray.scoring.metrics import Scores
from usseg_ray.scoring.prediction import Predictor

IGNORE = 5
TRUTH = GroundTruth(("red", "green", "blue"), IGNORE)


def featurise(images: Images) -> Batch:
    pixels = images.pixels.float()
    return Batch(images.ids, pixels / 255, FeatureMap(pixels))


def ceiling(
    encode: Encode,
    train: Iterable[LabelledImages],
    test: list[LabelledImages],
    *,
    seed: int,
    epochs: int = 20,
) -> Scores:
    """Trains a probe and scores it."""
    probe = fit_linear_probe(encode, featurise, train, TRUTH, seed=seed, epochs=epochs)
    found = evaluate(
        Predictor(probe, featurise, test[0].images.pixels.shape[-1]),
        test,
        TRUTH,
        expected_rows=sum(len(one.numbers) for one in test),
        device=torch.device("cpu"),
        class_of=np.arange(3),
    )
    assert found.scores is not None
    return found.scores


def separable(seed: str, count: int) -> list[LabelledImages]:
    """Images whose labels are a linear function of their codes, with some that do not count."""
    found = []
    for number in range(count):
        generator = shared_generator(seed, number)
        pixels = torch.randint(0, 256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
        labels = pixels.float().argmax(1)
        labels[:, :, 0] = IGNORE
        numbers = (2 * number, 2 * number + 1)
        found.append(LabelledImages(Images((f"{number}a", f"{number}b"), pixels), labels, numbers))
    return found


def encode(batch: Batch) -> Tensor:
    mixing = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, -1.0], [1.0, 0.0, 3.0]])
    return torch.einsum("dc,bchw->bdhw", mixing, batch.features.tokens) + 500


def test_probe_of_linearly_separable_codes() -> None:
    train, test = separable("train", 30), separable("test", 4)
    found = ceiling(encode, train, test, seed=0, epochs=80)
    assert found.unsup_acc > 97
    assert found.unsup_miou > 95
    assert found.class_of.tolist() == [0, 1, 2]
    assert found.confusion.sum() == 4 * 2 * 56


def test_probe_of_codes_that_say_nothing() -> None:
    train, test = separable("train", 10), separable("test", 4)

    def blind(batch: Batch) -> Tensor:
        return torch.ones(len(batch.ids), 2, 8, 8)

    found = ceiling(blind, train, test, seed=0)
    assert found.used_clusters == 1


def test_probe_depends_on_its_seed_alone() -> None:
    train, test = separable("train", 5), separable("test", 2)
    first, again = (ceiling(encode, train, test, seed=3, epochs=2).confusion for _ in range(2))
    assert np.array_equal(first, again)


def test_probe_reads_tokens_coarser_than_labels() -> None:
    quarters = torch.tensor([[0, 1], [2, 0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    pixels = (torch.nn.functional.one_hot(quarters, 3).permute(2, 0, 1) * 255).to(torch.uint8)
    one = LabelledImages(Images(("a",), pixels[None]), quarters[None], (0,))

    def pooled(batch: Batch) -> Tensor:
        return torch.nn.functional.avg_pool2d(batch.features.tokens, 4)

    found = ceiling(pooled, [one], [one], seed=0, epochs=200)
    assert found.unsup_acc > 90


@pytest.mark.parametrize("size", [(8, 12), (5, 7), (30, 50)])
@pytest.mark.parametrize("ignore_index", [IGNORE, 1, -1])
def test_shares_of_classes_to_the_bit(size: tuple[int, int], ignore_index: int) -> None:
    labels = torch.randint(-2, 7, (3, 24, 36), generator=shared_generator("shares"))
    images = Images(("a", "b", "c"), torch.zeros(3, 3, 24, 36, dtype=torch.uint8))
    codes = torch.rand(3, 4, *size, generator=shared_generator("codes"))
    found, shares = subject._tokens(
        lambda _: codes,
        featurise,
        [LabelledImages(images, labels, (0, 1, 2))],
        GroundTruth(TRUTH.classes, ignore_index),
    )
    masks = [(labels == one) & (labels != ignore_index) for one in range(3)]
    pooled = adaptive_avg_pool2d(torch.stack(masks, 1).float(), size)
    expected = pooled.permute(0, 2, 3, 1).flatten(0, 2)
    used = expected.sum(1) > 0
    assert torch.equal(shares, expected[used])
    assert torch.equal(found, codes.permute(0, 2, 3, 1).flatten(0, 2)[used])


def test_probe_refuses_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="one process"):
        fit_linear_probe(encode, featurise, separable("train", 1), TRUTH, seed=0)


def test_a_probe_classifies_the_mean_of_two_codes() -> None:
    train = separable("train", 3)
    probe = fit_linear_probe(encode, featurise, train, TRUTH, seed=0, epochs=2)
    one, other = (featurise(labelled.images) for labelled in train[:2])
    mean = (encode(one) + encode(other).flip(-1)) / 2
    expected = probe._classify(mean)
    torch.testing.assert_close(probe.predict_mirrored(one, other), expected)
    assert probe.num_outputs == 3


def test_its_steps_are_the_plain_ones() -> None:
    train = separable("train", 20)
    codes = torch.cat([encode(featurise(one.images)).permute(0, 2, 3, 1) for one in train])
    labels = torch.cat([one.labels for one in train]).flatten()
    rows, truth = codes.flatten(0, 2)[labels != IGNORE], labels[labels != IGNORE]
    plain = torch.nn.Linear(3, 3)
    for parameter in plain.parameters():
        torch.nn.init.zeros_(parameter)
    optimiser = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=1e-4)
    generator = shared_generator(7, "linear")
    for _ in range(2):
        for chosen in torch.randperm(len(rows), generator=generator).split(-(-len(rows) // 32)):
            given = (rows[chosen] - rows.mean(0)) / rows.std(0)
            loss = torch.nn.functional.cross_entropy(plain(given), truth[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    probe = fit_linear_probe(encode, featurise, train, TRUTH, seed=7, epochs=2)
    torch.testing.assert_close(probe._classifier.weight, plain.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(probe._classifier.bias, plain.bias, rtol=1e-4, atol=1e-6)
