"""Scores against vectors of the official metric of STEGO, HP and SmooSeg: percent, 1e-4 absolute;
counts and matches exact.

Not applicable: `map_clusters_of_0_to_n`, predictions rewritten to classes, which is wrong there for
all but the last of several clusters left over.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from usseg_ray.scoring.metrics import confusion_matrix, other_scores, score

Golden = Callable[[str], dict[str, Any]]
CASES = ("plain_n5", "ignore_n5", "absent_class_n6", "coco27", "extra2_n5", "extra1_n3")


def counted(vectors: dict[str, Any], case: str) -> np.ndarray:
    classes, extra, _ = vectors[f"{case}/n_extra_hungarian"].tolist()
    clusters = torch.as_tensor(vectors[f"{case}/preds"]).long()
    labels = torch.as_tensor(vectors[f"{case}/target"]).long()
    return confusion_matrix(clusters, labels, classes + extra, classes, 255).numpy()


@pytest.mark.parametrize("case", CASES)
def test_the_official_metric(golden: Golden, case: str) -> None:
    vectors = golden("hp/unsup_metrics.npz")
    confusion = counted(vectors, case)
    classes = confusion.shape[1]
    # Officially the clusters left over by their number are not counted at all.
    official = vectors[f"{case}/stats"]
    np.testing.assert_array_equal(confusion[:classes], official[:classes])
    assert not official[classes:].any()
    found = score(confusion[:classes])
    pairs = zip(
        vectors[f"{case}/assign_rows"].tolist(),
        vectors[f"{case}/assign_cols"].tolist(),
        strict=True,
    )
    hits = sum(int(official[cluster, own]) for cluster, own in pairs)
    assert found.unsup_acc == pytest.approx(100 * hits / official.sum())
    assert found.unsup_miou == pytest.approx(float(vectors[f"{case}/mIoU"]), abs=1e-4)
    assert found.unsup_acc == pytest.approx(float(vectors[f"{case}/Accuracy"]), abs=1e-4)


@pytest.mark.parametrize("case", ["extra2_n5", "extra1_n3"])
def test_clusters_left_over_by_number(golden: Golden, case: str) -> None:
    vectors = golden("hp/unsup_metrics.npz")
    others = other_scores(counted(vectors, case))
    assert others["first_clusters_miou"] == pytest.approx(float(vectors[f"{case}/mIoU"]), abs=1e-4)
    assert others["first_clusters_acc"] == pytest.approx(
        float(vectors[f"{case}/Accuracy"]), abs=1e-4
    )


def test_the_official_metric_without_a_match(golden: Golden) -> None:
    vectors = golden("hp/unsup_metrics.npz")
    found = score(counted(vectors, "linear_n5"), np.arange(5))
    assert found.unsup_miou == pytest.approx(float(vectors["linear_n5/mIoU"]), abs=1e-4)
    assert found.unsup_acc == pytest.approx(float(vectors["linear_n5/Accuracy"]), abs=1e-4)
