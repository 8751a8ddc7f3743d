"""CAUSE's cluster probe and evaluation against vectors of its official code, float32: values 1e-5
absolute, gradients 1e-4 of the largest entry; integers exact.

Not applicable: `map_t` of `metrics.npz` (recall under another name, which is not reported here);
`mapped_t` (predictions are not rewritten).
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from tests.numerics.cause import as_map, as_rows, make_network, tensor
from tests.numerics.comparing import Golden, close, close_gradient
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec
from usseg_ray.methods.cause import CAUSE
from usseg_ray.methods.parts.cluster_probe import ClusterProbe
from usseg_ray.methods.parts.clusterbook import clusterbook_losses
from usseg_ray.methods.parts.heads import SegmentationHead
from usseg_ray.scoring.metrics import confusion_matrix, score
from usseg_ray.scoring.prediction import scorer_of
from usseg_ray.settings.cause import CAUSEConfig


def test_s3_1_probe_by_modularity(golden: Golden) -> None:
    vectors = golden("cause/cluster_probe.npz")
    centroids = tensor(vectors["probe"]).requires_grad_()
    losses = clusterbook_losses(tensor(vectors["x"]), centroids)
    close(losses, -vectors["trace"])
    close(losses.mean(), vectors["modularity_loss"])
    losses.mean().backward()
    close_gradient(centroids.grad, vectors["grad_probe_modularity"])


@pytest.mark.parametrize(
    ("file", "names"),
    [
        (
            "cause/cluster_probe.npz",
            (
                "x",
                "probe",
                "cluster_loss",
                "cluster_pred",
                "grad_probe_cluster_loss",
                "pred_inference",
                "logprob_crf",
            ),
        ),
        (
            "hp/cluster_lookup_cause.npz",
            (
                "tokens",
                "cluster_probe",
                "loss",
                "pred",
                "grad_cluster_probe",
                "argmax_inference",
                "log_probs_crf_alpha3",
            ),
        ),
    ],
)
def test_t_2_probe(golden: Golden, file: str, names: tuple[str, ...]) -> None:
    vectors = golden(file)
    tokens, centroids, loss, chosen, grad, predicted, logs = (vectors[name] for name in names)
    probe = ClusterProbe(len(centroids), centroids.shape[1], torch.Generator())
    with torch.no_grad():
        probe.centroids.copy_(tensor(centroids))
    codes = as_map(tokens)
    value = probe.loss(codes)
    close(value, loss)
    value.backward()
    close_gradient(probe.centroids.grad, grad)
    cosines = probe(codes)
    np.testing.assert_array_equal(cosines.argmax(1), chosen)
    np.testing.assert_array_equal(cosines.argmax(1), predicted)
    close((3 * cosines).log_softmax(1), logs)


def test_t_1_and_t_2_evaluation(golden: Golden) -> None:
    vectors = golden("cause/eval_pipeline.npz")
    network = make_network(vectors)
    codes = network.codes(as_map(vectors["feat"]))
    mirrored = network.codes(as_map(vectors["feat_of_flipped_image"])).flip(3)
    average = (codes + mirrored) / 2
    close(as_rows(average), vectors["seg_avg"])
    size = vectors["interp"].shape[2:]
    upsampled = interpolate(average, size, mode="bilinear", align_corners=False)
    close(upsampled, vectors["interp"])
    method = predictor(average.shape[1], vectors["probe"])
    close((3 * method.probe(upsampled)).log_softmax(1), vectors["logprob"])
    # Scores upsampled after projection choose the same clusters as codes upsampled before it.
    pixels = torch.zeros(2, 3, *size)
    given = (FeatureMap(part.detach()) for part in (codes, mirrored.flip(3)))
    batches = (Batch(("a", "b"), pixels, features) for features in given)
    scores = method.predict_mirrored(*batches)
    scores = interpolate(scores, size, mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(scores.argmax(1), vectors["pred"])
    given = (FeatureMap(part.detach()) for part in (codes, mirrored.flip(3)))
    batches = (Batch(("a", "b"), pixels, features) for features in given)
    scorer = scorer_of(method, "codes")
    at_pixels = scorer.predict_mirrored(*batches)
    np.testing.assert_array_equal(at_pixels.argmax(1), vectors["pred"])
    # What the CRF starts from.
    close((scorer.sharpness * at_pixels).log_softmax(1), vectors["logprob"])


def predictor(dim: int, centroids: Any) -> CAUSE:
    """Builds a method whose codes are its tokens."""
    features = FeatureSpec(dim, 4, has_attention=False, grid=6, eval_grid=6)
    config = CAUSEConfig(num_codes=4, dim=dim, projection_dim=3)
    method = CAUSE(config, features, len(centroids), seed=0)
    head = method.teacher.head
    assert isinstance(head, SegmentationHead)
    with torch.no_grad():
        method.probe.centroids.copy_(tensor(centroids))
        for parameter in head.parameters():
            parameter.zero_()
        head.linear.weight.copy_(torch.eye(dim)[:, :, None, None])
    return method


def test_t_4_metrics(golden: Golden) -> None:
    vectors = golden("cause/metrics.npz")
    classes = int(vectors["n_classes"])
    total = torch.zeros(classes, classes, dtype=torch.int64)
    for step in range(3):
        predicted, labels = (tensor(vectors[f"{name}_{step}"]) for name in ("pred", "label"))
        total += confusion_matrix(predicted, labels, classes, classes, ignore_index=-1)
        np.testing.assert_array_equal(total, vectors[f"histogram_{step}"])
        scores = score(total.numpy())
        assert scores.unsup_acc == pytest.approx(float(vectors[f"acc_{step}"]), abs=1e-4)
        np.testing.assert_allclose(scores.iou, vectors[f"iou_per_class_{step}"], atol=1e-4)
        assert scores.unsup_miou == pytest.approx(float(vectors[f"miou_{step}"]), abs=1e-4)
