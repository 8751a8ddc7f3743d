"""From the official files of every published set to its score, against a count by hand."""

from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch import Tensor

from tests.trees import plant
from usseg_ray.core.config import DataConfig
from usseg_ray.core.types import Batch, FeatureMap, Images
from usseg_ray.data.manifest import Manifest, split_totals
from usseg_ray.data.reader import Reader
from usseg_ray.data.shards import write_split
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.sets import find_set
from usseg_ray.scoring.evaluation import GroundTruth, evaluate
from usseg_ray.scoring.prediction import Predictor
from usseg_ray.scoring.protocols import find_protocol

SIDE = 48  # of frames whose protocol leaves it to the run


class Horizon:
    """Puts what is above the middle into cluster 0, and what is below into cluster 1."""

    sharpness = 1.0

    def __init__(self, num_outputs: int) -> None:
        self.num_outputs = num_outputs

    def predict(self, batch: Batch) -> Tensor:
        scores = torch.zeros(len(batch.ids), self.num_outputs, 2, 1)
        scores[:, 0, 0] = scores[:, 1, 1] = 1
        return scores

    def predict_mirrored(self, batch: Batch, mirrored: Batch) -> Tensor:
        return (self.predict(batch) + self.predict(mirrored)) / 2


def featurise(images: Images) -> Batch:
    return Batch(images.ids, images.pixels / 255, FeatureMap(images.pixels / 255))


def label_of(path: str) -> list[list[int]]:
    """Reads an official label file."""
    if path.endswith(".mat"):
        found: list[list[int]] = scipy.io.loadmat(path)["gt"].tolist()
        return found
    rows: list[list[int]] = np.array(Image.open(path)).tolist()
    return rows


def seen(length: int, scaled: int, side: int) -> list[int]:
    """Says which source pixel each pixel of a centred piece of a scaled edge shows."""
    start = round((scaled - side) / 2)
    return [int((start + i + 0.5) * length / scaled + 1e-9) for i in range(side)]


def expected(labels: list[list[list[int]]], class_of: dict[int, int], crop: str) -> float:
    """Scores by counting pixels one by one and trying every pair of classes."""
    upper, lower = Counter[int](), Counter[int]()
    for label in labels:
        height, width = len(label), len(label[0])
        size = 320 if crop == "centre" else height
        long = int(size * width / height)
        rows = seen(height, size, size)
        columns = seen(width, long, size) if crop == "centre" else range(width)
        for place, row in enumerate(rows):
            counts = upper if place < size / 2 else lower
            counts.update(class_of[label[row][column]] for column in columns)
    for counts in (upper, lower):
        counts.pop(255, None)
    truth = upper + lower
    pairs = permutations(sorted(truth), 2)
    right = {pair: upper[pair[0]] + lower[pair[1]] for pair in pairs}
    first, second = max(right, key=lambda pair: right[pair])
    hits = {first: upper[first], second: lower[second]}
    claimed = {first: upper.total(), second: lower.total()}
    union = {c: truth[c] + claimed.get(c, 0) - hits.get(c, 0) for c in truth}
    return 100 * sum(hits.get(c, 0) / union[c] for c in truth) / len(truth)


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("cocostuff27", "stego-320"),
        ("cocostuff27", "picie-320"),
        ("cocostuff27-curated", "picie-320"),
        ("cocostuff81", "stego-320"),
        ("cocostuff171", "stego-320"),
        ("cityscapes27", "stego-320"),
        ("cityscapes19", "full-resolution"),
        ("potsdam3", "stego-320"),
        ("voc2012", "voc-21"),
        ("camvid", "full-resolution"),
    ],
)
def test_a_miniature_scores_as_counted_by_hand(tmp_path: Path, name: str, protocol: str) -> None:
    images = find_set(name).discover(plant(tmp_path / "source", name))
    inspector = Inspector(images.meaning)
    entries = images.splits["test"]
    shards = tuple(write_split(tmp_path, "test", inspector.rows(entries), 2))
    manifest = Manifest(
        name=name,
        classes=images.classes,
        ignore_index=images.ignore_index,
        splits=split_totals(shards),
        shards=shards,
        source="a test",
    )
    chosen, classes = find_protocol(protocol), len(images.classes)
    chosen.check(classes, classes)
    side = chosen.size or SIDE
    config = DataConfig(eval_size=side)
    reader = Reader(str(tmp_path), manifest, config, frame=chosen.frame(side))
    found = evaluate(
        Predictor(Horizon(classes), featurise, side),
        reader.labelled("test", 2),
        GroundTruth(images.classes, images.ignore_index),
        expected_rows=len(entries),
        device=torch.device("cpu"),
    )
    assert found.scores is not None
    labels = [label_of(str(entry.label)) for entry in entries]
    by_hand = expected(labels, dict(images.class_of or {}), chosen.crop)
    assert found.scores.unsup_miou == pytest.approx(by_hand, abs=1e-9)
    assert 0 < by_hand < 100
