"""PiCIE against the official functions: every golden file, and loops where a kernel is fast.

Tolerances are those that the vectors' notes suggest: 2e-6 for centroids and losses, 1e-8 for
gradients, 1e-5 for the decoder, 2e-4 for scores, 1e-4 for percentages; labels, counts, histograms
and colour views are exact.

Not applicable: `vflip_u` and `feat_out_with_vflip` (no script flips vertically); of the evaluation
`all_iou`, `all_pcacc`, `all_mpcacc`, `reordered_histogram`, `thing_*`, `stuff_*`, `fixed_thing_*`
and `fixed_stuff_*` (the official code sorts clusters instead of classes before it splits them into
things and stuff; this product reports classes in their own order and makes no such split).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from usseg_ray.core.config import JitterConfig
from usseg_ray.core.views import Frame
from usseg_ray.data.recolour import adjust, photometric_from
from usseg_ray.data.transforms import View, frame_image, view_image
from usseg_ray.methods.parts.geometry import crop_and_flip, crop_box
from usseg_ray.methods.parts.joint import mean_squared_difference, weighted_cross_entropy
from usseg_ray.methods.parts.minibatch_kmeans import (
    CellSums,
    MiniBatchKMeans,
    Schedule,
    lloyd,
    nearest,
    nearness,
)
from usseg_ray.methods.parts.pyramid import PyramidDecoder, PyramidNetwork
from usseg_ray.methods.parts.view_clusters import ViewClusters, cross_view_terms
from usseg_ray.scoring.metrics import confusion_matrix, score, things_and_stuff
from usseg_ray.scoring.prediction import label_map
from usseg_ray.settings.picie import ClassWeights, NetworkConfig

Vectors = dict[str, Any]
Golden = Callable[[str], Vectors]
KMEANS = (
    "kmeans_given_init",
    "kmeans_given_init_group",
    "kmeans_given_init_empty",
    "kmeans_short_loader",
    "kmeans_faiss_init",
)
LOSSES = ("loss_picie", "loss_picie_equiv", "loss_picie_nobalance_mse", "loss_picie_zero_weight")
HUNGARIAN = ("hungarian", "hungarian_absent_class")
JITTER = JitterConfig(probability=0.8, grey=0.0)


def tensor(array: Any) -> Tensor:
    return torch.as_tensor(array)


def close(actual: Any, expected: Any, atol: float) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=atol)


def empty_clustering(views: int, centroids: Any) -> ViewClusters:
    k, dim = centroids.shape
    return ViewClusters(views, k, dim, torch.Generator())


def cells_of(features: Any) -> Tensor:
    """Normalised features, a column per cell."""
    return normalize(tensor(features)).flatten(2)


def machine_for(vectors: Vectors) -> MiniBatchKMeans:
    """Starts from the recorded rows where there are some, else from the recorded result."""
    schedule = Schedule(
        int(vectors["num_init_batches"]),
        int(vectors["num_batches"]),
        int(vectors["n_iter"]) if "start_rows" in vectors else 0,
    )
    k, dim = vectors["centroids_init"].shape
    starts = tensor(vectors["centroids_init"])
    if "start_rows" in vectors:
        starts = cells_of(vectors["feats"]).mT.flatten(0, 1)[vectors["start_rows"]]
        close(starts, vectors["start_points"], 1e-7)
    return MiniBatchKMeans(k, dim, schedule, 0, starts=starts)


@pytest.mark.parametrize("name", KMEANS)
def test_section_3_minibatch_kmeans(golden: Golden, name: str) -> None:
    vectors = golden(f"picie/{name}.npz")
    machine, size = machine_for(vectors), int(vectors["feats_per_batch"])
    images = cells_of(vectors["feats"])
    states = [(machine.centroids, machine.counts)]
    updates = []
    for batch, start in enumerate(range(0, len(images), size)):
        own = images[start : start + size]
        machine.feed([f"{start + index}" for index in range(len(own))], own)
        if machine.centroids is not states[-1][0]:
            states.append((machine.centroids, machine.counts))
            updates.append(batch)
    clusters = machine.finish()
    if len(states) == 1:  # the loader ended before its initial batches did
        states.append((clusters.centroids, clusters.counts))
    centroids, counts = zip(*states[1:], strict=True)
    close(torch.stack(centroids), vectors["centroids_states"], 2e-6)
    np.testing.assert_array_equal(torch.stack(counts).numpy(), vectors["counts_states"])
    close(clusters.centroids, vectors["centroids_states"][-1], 2e-6)
    close(clusters.distance, vectors["kmeans_loss"], 2e-6)
    assert updates[1:] == [index for index in vectors["update_at_batch"].tolist() if index >= 0]


def test_section_3_lloyd_objective(golden: Golden) -> None:
    vectors = golden("picie/kmeans_faiss_init.npz")
    images = cells_of(vectors["feats"])[: 3 * int(vectors["feats_per_batch"])]
    starts = tensor(vectors["start_points"])
    for iterations, expected in enumerate(vectors["lloyd_objective"]):
        found = lloyd([images], starts, iterations, torch.Generator().manual_seed(0))
        assert found.distance * int(vectors["n_init_points"]) == pytest.approx(expected, rel=1e-6)


def official_update(
    centroids: np.ndarray, counts: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Section 3.5 as loops over rows and clusters."""
    labels = [int(np.argmin([((row - mu) ** 2).sum() for mu in centroids])) for row in rows]
    centroids, counts = centroids.copy(), counts.copy()
    for k in sorted(set(labels)):
        own = rows[[label == k for label in labels]]
        counts[k] += len(own)
        rate = len(own) / (counts[k] + 1e-6)
        centroids[k] = (1 - rate) * centroids[k] + rate * own.mean(0)
    return centroids, counts


def test_update_against_loops() -> None:
    random = torch.Generator().manual_seed(5)
    rows = normalize(torch.randn(4, 30, 7, generator=random), dim=2)
    starts = rows[0, :6]
    machine = MiniBatchKMeans(6, 7, Schedule(1, 1, 0), 0, starts=starts)
    machine.feed(["a"], rows[:1].mT)
    centroids, counts = starts.double().numpy(), machine.counts.numpy()
    for index in (1, 2, 3):
        machine.feed([f"{index}"], rows[index : index + 1].mT)
        centroids, counts = official_update(centroids, counts, rows[index].double().numpy())
        close(machine.centroids, centroids, 1e-6)
        np.testing.assert_array_equal(machine.counts.numpy(), counts)


@pytest.mark.parametrize("name", ["labels_weights", "labels_weights_empty"])
def test_section_4_labels_and_weights(golden: Golden, name: str) -> None:
    vectors = golden(f"picie/{name}.npz")
    codes, centroids = normalize(tensor(vectors["feats"])), tensor(vectors["centroids"])
    labels = nearest(codes, centroids)
    np.testing.assert_array_equal(labels.flatten(1).numpy(), vectors["labels"])
    scores = 2 * nearness(codes.flatten(2), centroids) - 1
    close(scores.reshape(vectors["scores"].shape), vectors["scores"], 2e-4)
    clustering = empty_clustering(1, centroids)
    clustering.centroids[0] = centroids
    clustering.counts.copy_(clustering.cells([codes]))
    np.testing.assert_array_equal(clustering.counts[0].numpy(), vectors["counts"])
    close(clustering.weights("frequency")[0], vectors["weight"], 1e-7)
    products = clustering.logits(codes, 0).argmax(1).flatten(1)
    np.testing.assert_array_equal(products.numpy(), vectors["labels_by_inner_product"])
    assert (labels.flatten(1) != products).any()


def geometry(vectors: Vectors) -> tuple[Tensor, Tensor]:
    crop = np.concatenate([vectors["rscale"][:, None], vectors["rcrop"]], axis=1)
    return tensor(crop), tensor(vectors["hflip_u"] < 0.5)


def test_section_1_6_geometry(golden: Golden) -> None:
    vectors = golden("picie/equivariance.npz")
    crop, flip = geometry(vectors)
    side = int(vectors["res1"])
    close(
        crop_and_flip(tensor(vectors["image_in"]), crop, flip, (side, side)),
        vectors["image_out"],
        1e-6,
    )
    features, small = tensor(vectors["feat_in"]), (side // 4, side // 4)
    close(crop_and_flip(features, crop, flip, small), vectors["feat_out"], 1e-6)
    unmirrored = crop_and_flip(features, crop, torch.zeros_like(flip), small)
    close(unmirrored, vectors["feat_crop_only"], 1e-6)
    for name, width in (("box_image", 2 * side), ("box_feat", side // 4)):
        boxes = [crop_box(width, width, *parameters) for parameters in crop.tolist()]
        np.testing.assert_array_equal([box[:3] for box in boxes], vectors[name])
        assert all(tall == wide for _, _, tall, wide in boxes)


def clustering_of(vectors: Vectors) -> ViewClusters:
    """The recorded classifiers; counts whose shares are the recorded weights."""
    clustering = empty_clustering(2, vectors["centroids1"])
    for view in (0, 1):
        clustering.centroids[view] = tensor(vectors[f"centroids{view + 1}"])
        shares = tensor(vectors[f"weight{view + 1}"]).double()
        clustering.counts[view] = (shares / shares.sum() * 2**40).round().long()
    return clustering


@pytest.mark.parametrize("name", LOSSES)
def test_section_5_loss_and_gradient(golden: Golden, name: str) -> None:
    vectors = golden(f"picie/{name}.npz")
    first = tensor(vectors["feat1"]).requires_grad_()
    raw = tensor(vectors["feat2_raw"]).requires_grad_()
    second: Tensor = raw
    if vectors["equiv"]:
        second = crop_and_flip(raw, *geometry(vectors), (raw.shape[2], raw.shape[3]))
    close(second.detach(), vectors["feat2"], 1e-6)
    codes = [normalize(first), normalize(second)]
    labels = [tensor(vectors["label1"]), tensor(vectors["label2"])]
    kind: ClassWeights = "none" if vectors["no_balance"] else "frequency"
    clustering = clustering_of(vectors)
    weights = clustering.weights(kind)
    for own in (0, 1):
        for other in (0, 1):
            part = weighted_cross_entropy(
                clustering.logits(codes[own], other), labels[other], weights[other]
            )
            close(part.detach(), vectors[f"loss{own + 1}{other + 1}"], 2e-6)
    terms = cross_view_terms(codes, labels, clustering, kind)
    close(terms.within.detach(), vectors["within"], 2e-6)
    close(terms.across.detach(), vectors["across"], 2e-6)
    total = (terms.within + terms.across) / 2
    close(total.detach(), vectors["cet"], 2e-6)
    if vectors["use_mse"]:
        mse = mean_squared_difference(*codes)
        close(mse.detach(), vectors["mse"], 2e-6)
        total = (total + mse) / 2
    close(total.detach(), vectors["total"], 2e-6)
    total.backward()
    close(first.grad, vectors["grad_feat1"], 1e-8)
    close(raw.grad, vectors["grad_feat2_raw"], 1e-8)


@pytest.mark.parametrize("name", ["loss_mdc_parametric", "loss_mdc_nonparametric"])
def test_section_5_mdc(golden: Golden, name: str) -> None:
    vectors = golden(f"picie/{name}.npz")
    features = tensor(vectors["feat"]).requires_grad_()
    out, width = vectors["W"].shape[:2]
    classifier = nn.Conv2d(width, out, 1)
    classifier.load_state_dict({"weight": tensor(vectors["W"]), "bias": tensor(vectors["b"])})
    loss = weighted_cross_entropy(
        classifier(normalize(features)), tensor(vectors["label"]), tensor(vectors["weight"])
    )
    close(loss.detach(), vectors["loss"], 2e-6)
    loss.backward()
    close(features.grad, vectors["grad_feat"], 1e-8)
    if not vectors["nonparametric"]:
        close(classifier.weight.grad, vectors["grad_W"], 1e-8)
        assert classifier.bias is not None
        close(classifier.bias.grad, vectors["grad_b"], 1e-8)
        torch.optim.Adam(classifier.parameters(), lr=float(vectors["lr"])).step()
        close(classifier.weight.detach(), vectors["W_after"], 1e-7)
        close(classifier.bias.detach(), vectors["b_after"], 1e-7)


def test_section_2_decoder(golden: Golden) -> None:
    vectors = golden("picie/fpn_head.npz")
    # The vectors count layers from the coarsest stage, the module from the finest.
    weights = [tensor(vectors[f"w{layer}"]).float() for layer in (4, 3, 2, 1)]
    decoder = PyramidDecoder(
        [weight.shape[1] for weight in weights], len(weights[0]), torch.Generator()
    )
    for index, layer in enumerate((4, 3, 2, 1)):
        bias = tensor(vectors[f"b{layer}"]).float()
        state = {"weight": weights[index][:, :, None, None], "bias": bias}
        decoder.laterals[index].load_state_dict(state)
    for case in "AB":
        stages = [tensor(vectors[f"{case}_res{stage}"]).float() for stage in (2, 3, 4, 5)]
        close(decoder(stages).detach(), vectors[f"{case}_out"], 1e-5)


@pytest.mark.parametrize("name", HUNGARIAN)
def test_section_7_evaluation(golden: Golden, name: str) -> None:
    vectors = golden(f"picie/{name}.npz")
    clustering = empty_clustering(1, vectors["centroids"])
    clustering.centroids[0] = tensor(vectors["centroids"])
    labels = tensor(vectors["labels"]).long()
    scores = clustering.logits(normalize(tensor(vectors["feats"])), 0)
    clusters = label_map(scores, (labels.shape[1], labels.shape[2]))
    confusion = confusion_matrix(clusters, labels, 27, 27, -1).numpy()
    np.testing.assert_array_equal(confusion.T, vectors["histogram"])
    found = score(confusion)
    class_of = dict(vectors["assignment"][:, ::-1].tolist())
    present = set(labels.unique().tolist())
    # Absent classes share the clusters that are left over in any way.
    matched = {k: own for k, own in enumerate(found.class_of.tolist()) if own in present}
    assert matched == {k: own for k, own in class_of.items() if own in present}
    close(found.unsup_acc, vectors["returned_acc"], 1e-4)
    close(found.unsup_acc, vectors["all_acc"], 1e-4)
    close(found.iou, vectors["fixed_iou_class_order"], 1e-4)
    close(found.unsup_miou, vectors["fixed_all_miou"], 1e-4)
    names = [f"class {index}" for index in range(27)]
    parts = things_and_stuff(found.iou, names, names[:12])
    close(parts["things_miou"], vectors["fixed_thing_full_miou"], 1e-4)
    close(parts["stuff_miou"], vectors["fixed_stuff_full_miou"], 1e-4)


def replayed(vectors: Vectors, view: int, image: int) -> np.ndarray:
    """A view's draws, in the order of `photometric_from`."""
    names = ("brightness", "contrast", "saturation", "hue")
    coins = [vectors[f"{name}_u"][view, image] for name in (*names, "grey", "blur")]
    factors = np.array([vectors[f"{name}_r"][view, image] for name in names])
    centres, reaches = np.array([1, 1, 1, 0]), np.array([0.3, 0.3, 0.3, 0.1])
    return np.array([*coins, *((factors - centres) / reaches + 1) / 2])


def test_sections_1_3_to_1_5_views(golden: Golden) -> None:
    vectors = golden("picie/photometric.npz")
    large, small = int(vectors["res2"]), int(vectors["res1"])
    for index, image in enumerate(vectors["images"]):
        base = frame_image(image, Frame(large)).transpose(1, 2, 0)
        np.testing.assert_array_equal(base, vectors["base"][index])
        first, second = (
            adjust(base, photometric_from(replayed(vectors, view, index), JITTER))
            for view in (0, 1)
        )
        np.testing.assert_array_equal(first, vectors["view1_uint8"][index])
        whole = View((0.0, 0.0, float(large), float(large)), small)
        shrunk = view_image(second, whole).transpose(1, 2, 0)
        np.testing.assert_array_equal(shrunk, vectors["view2_uint8"][index])


def test_input_normalisation(golden: Golden) -> None:
    vectors = golden("picie/photometric.npz")
    network = PyramidNetwork(NetworkConfig(name="resnet18", pretrained=False), 0)
    for view in (1, 2):
        pixels = tensor(vectors[f"view{view}_uint8"][:2]).permute(0, 3, 1, 2) / 255
        close(network.normalise(pixels), vectors[f"view{view}_tensor"], 1e-6)


@pytest.mark.parametrize("splits", [1, 2, 3, 5])
def test_section_10_sums_do_not_depend_on_the_split(golden: Golden, splits: int) -> None:
    vectors = golden("picie/kmeans_given_init.npz")
    images, centroids = cells_of(vectors["feats"]), tensor(vectors["centroids_init"])
    parts = []
    for part in range(splits):
        tally = CellSums.empty(centroids)
        tally.add(images[part::splits], centroids)
        parts.append(tally)
    whole = CellSums.empty(centroids)
    for image in images.flip(0).split(1):
        whole.add(image, centroids)
    for name in ("sums", "counts", "distance"):
        joined = torch.stack([getattr(part, name) for part in parts]).sum(0)
        assert torch.equal(joined, getattr(whole, name))
