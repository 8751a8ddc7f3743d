"""The floor of whole images: one label each, by the mean of their tokens."""

import torch

from tests.contract.cases import FEATURES, Walks, make_batch
from usseg_ray.methods.image import ImageFloor
from usseg_ray.settings.kmeans import KMeansConfig


def test_an_image_has_one_label() -> None:
    method, batch = ImageFloor(KMeansConfig(), FEATURES, 3, seed=0), make_batch(range(8))
    method.fit_clusters(Walks(range(8)))
    scores = method.predict(batch)
    labels = scores.argmax(1).flatten(1)
    assert torch.equal(labels, labels[:, :1].expand_as(labels))
    assert len(labels.unique()) == 3


def test_it_is_described_by_its_mean_token() -> None:
    method, batch = ImageFloor(KMeansConfig(), FEATURES, 3, seed=0), make_batch(range(2))
    means = batch.features.tokens.flatten(2).mean(2)
    torch.testing.assert_close(method.encode(batch)[:, :, 1, 2], means)
