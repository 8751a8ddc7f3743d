from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from usseg_ray.scoring.metrics import (
    ImageCounts,
    boundary_f,
    confusion_matrix,
    confusion_per_image,
    hungarian_match,
    majority_match,
    matched_counts,
    merged_match,
    other_scores,
    score,
    things_and_stuff,
)

IGNORE = 7


def counts(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int64)


def naive_confusion(clusters: list[int], labels: list[int], k: int, c: int) -> np.ndarray:
    found = np.zeros((k, c), np.int64)
    for cluster, label in zip(clusters, labels, strict=True):
        if label != IGNORE and 0 <= label < c:
            found[cluster, label] += 1
    return found


def naive_scores(confusion: np.ndarray, class_of: np.ndarray) -> tuple[list[float], float]:
    """Loops over pixels as a definition would: each class's intersection over union, accuracy."""
    pixels = [
        (int(class_of[k]), c)
        for k, c in np.ndindex(*confusion.shape)
        for _ in range(confusion[k, c])
    ]
    ious = []
    for c in range(confusion.shape[1]):
        both = sum(p == c and t == c for p, t in pixels)
        either = sum(c in (p, t) for p, t in pixels)
        ious.append(100 * both / either if either else float("nan"))
    return ious, 100 * sum(p == t for p, t in pixels) / len(pixels)


small_matrices = st.integers(1, 5).flatmap(
    lambda c: st.lists(
        st.lists(st.integers(0, 6), min_size=c, max_size=c), min_size=1, max_size=5
    ).map(lambda rows: counts(*rows))
)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1, 0, 1, 2, IGNORE, 255])), max_size=60)
)
def test_confusion_counts_like_a_loop(pixels: list[tuple[int, int]]) -> None:
    clusters, labels = [p[0] for p in pixels], [p[1] for p in pixels]
    found = confusion_matrix(
        torch.tensor(clusters, dtype=torch.int64), torch.tensor(labels, dtype=torch.int64), 4, 3, 7
    )
    assert found.dtype == torch.int64
    assert np.array_equal(found.numpy(), naive_confusion(clusters, labels, 4, 3))


def test_an_ignore_index_among_the_classes_is_ignored() -> None:
    found = confusion_matrix(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2, 3, 1)
    assert found.tolist() == [[1, 0, 0], [0, 0, 0]]


def test_maps_of_any_shape() -> None:
    clusters, labels = torch.zeros(2, 3, 4).long(), torch.ones(2, 3, 4).long()
    assert confusion_matrix(clusters, labels, 1, 2, 255).tolist() == [[0, 24]]


def test_as_many_clusters_as_classes() -> None:
    # Cluster 0 is class 1, cluster 1 is class 0; 2 + 1 pixels went astray.
    found = score(counts([2, 8], [9, 1]))
    assert found.class_of.tolist() == [1, 0]
    assert found.iou.tolist() == pytest.approx([100 * 9 / 12, 100 * 8 / 11])
    assert found.unsup_miou == pytest.approx(50 * (9 / 12 + 8 / 11))
    assert found.unsup_acc == pytest.approx(100 * 17 / 20)
    assert (found.used_clusters, found.largest_share, found.collapsed) == (2, 50.0, False)


def test_fewer_clusters_than_classes() -> None:
    # Class 2 gets no cluster: it counts 0 in the mean, and its pixels are wrong.
    found = score(counts([6, 0, 1], [0, 5, 2]))
    assert found.class_of.tolist() == [0, 1]
    assert found.iou.tolist() == pytest.approx([100 * 6 / 7, 100 * 5 / 7, 0])
    assert found.unsup_miou == pytest.approx(100 * (6 / 7 + 5 / 7) / 3)
    assert found.unsup_acc == pytest.approx(100 * 11 / 14)


def test_more_clusters_than_classes() -> None:
    # The third cluster has no class: its pixels count as wrong, they are not dropped.
    found = score(counts([6, 0], [0, 5], [3, 1]))
    assert found.class_of.tolist() == [0, 1, -1]
    assert found.iou.tolist() == pytest.approx([100 * 6 / 9, 100 * 5 / 6])
    assert found.unsup_acc == pytest.approx(100 * 11 / 15)


def test_a_class_that_neither_occurs_nor_is_predicted_leaves_the_mean() -> None:
    found = score(counts([4, 0, 0], [0, 4, 0], [0, 0, 0]))
    assert np.isnan(found.iou[2])
    assert found.unsup_miou == 100
    assert found.used_clusters == 2


def test_a_class_that_is_predicted_but_absent_counts_0() -> None:
    found = score(counts([4, 0, 0], [2, 0, 0]), np.array([0, 2]))
    assert found.iou.tolist() == pytest.approx([100 * 4 / 6, float("nan"), 0], nan_ok=True)
    assert found.unsup_miou == pytest.approx(50 * 4 / 6)
    assert found.unsup_acc == pytest.approx(100 * 4 / 6)


def test_given_classes_are_not_matched_again() -> None:
    found = score(counts([1, 9], [9, 1]), np.array([0, 1]))
    assert found.class_of.tolist() == [0, 1]
    assert found.unsup_acc == 10


def test_two_clusters_given_one_class_add_up() -> None:
    confusion, class_of = counts([5, 1], [3, 0], [0, 4]), np.array([0, 0, 1])
    found = score(confusion, class_of)
    ious, accuracy = naive_scores(confusion, class_of)
    assert found.iou.tolist() == pytest.approx(ious)
    assert found.unsup_acc == pytest.approx(accuracy)


def test_nothing_labelled_is_an_error() -> None:
    with pytest.raises(ValueError, match="not one labelled pixel was evaluated"):
        score(counts([0, 0], [0, 0]))


@pytest.mark.parametrize(("rest", "collapsed"), [(0, True), (9, True), (10, False), (500, False)])
def test_collapse_is_flagged(rest: int, collapsed: bool) -> None:
    found = score(counts([500, 490], [0, rest]))
    assert found.collapsed is collapsed
    assert found.largest_share == pytest.approx(100 * 990 / (990 + rest))


def test_pixels_without_a_label_change_sizes_and_no_score() -> None:
    confusion = counts([500, 490], [0, 5])
    one, other = score(confusion), score(confusion, sizes=np.array([1000, 1000]))
    assert (one.collapsed, other.collapsed) == (True, False)
    assert other.largest_share == 50
    assert other.entropy == pytest.approx(100)
    assert (other.unsup_miou, other.used_clusters) == (one.unsup_miou, one.used_clusters)


@given(small_matrices.filter(lambda m: m.sum() > 0))
def test_scores_against_loops_over_pixels(confusion: np.ndarray) -> None:
    found = score(confusion)
    ious, accuracy = naive_scores(confusion, found.class_of)
    assert found.iou.tolist() == pytest.approx(ious, nan_ok=True)
    assert found.unsup_miou == pytest.approx(float(np.nanmean(ious)))
    assert found.unsup_acc == pytest.approx(accuracy)
    assert found.used_clusters == sum(row.any() for row in confusion)


@given(small_matrices)
def test_matching_is_one_to_one_and_the_best(confusion: np.ndarray) -> None:
    class_of = hungarian_match(confusion)
    k, c = confusion.shape
    matched = class_of[class_of >= 0].tolist()
    assert len(set(matched)) == len(matched) == min(k, c)
    padded = np.zeros((max(k, c), max(k, c)), np.int64)
    padded[:k, :c] = confusion
    best = max(
        sum(padded[row, column] for row, column in enumerate(order))
        for order in permutations(range(len(padded)))
    )
    assert sum(confusion[i, j] for i, j in enumerate(class_of) if j >= 0) == best


@given(small_matrices.filter(lambda m: m.sum() > 0))
def test_names_of_clusters_do_not_matter(confusion: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(len(confusion))
    one, other = score(confusion), score(confusion[order])
    assert one.unsup_acc == pytest.approx(other.unsup_acc)
    assert one.largest_share == other.largest_share


def test_every_cluster_takes_its_most_frequent_class() -> None:
    confusion = counts([2, 8], [1, 9], [0, 0])
    assert majority_match(confusion).tolist() == [1, 1, -1]
    others = other_scores(confusion[:2])
    assert others == {"many_to_one_miou": pytest.approx(50 * 17 / 20), "many_to_one_acc": 85.0}


def test_clusters_left_over_are_merged_into_their_class() -> None:
    # Clusters 0 and 1 are matched; 2 is mostly class 0, and 3 has no pixel.
    confusion = counts([6, 1], [0, 5], [3, 1], [0, 0])
    assert merged_match(confusion).tolist() == [0, 1, 0, -1]
    others = other_scores(confusion)
    assert others["merged_miou"] == pytest.approx(50 * (9 / 11 + 5 / 7))
    assert others["merged_acc"] == pytest.approx(100 * 14 / 16)
    assert others["first_clusters_miou"] == pytest.approx(50 * (6 / 7 + 5 / 6))
    assert others["first_clusters_acc"] == pytest.approx(100 * 11 / 12)


def test_a_matched_cluster_keeps_its_class_when_others_are_merged() -> None:
    # Cluster 0 is mostly class 1, which cluster 1 has.
    assert merged_match(counts([5, 6], [0, 9], [1, 0])).tolist() == [0, 1, 0]


def test_first_clusters_without_a_pixel_have_no_score() -> None:
    assert "first_clusters_miou" not in other_scores(counts([0, 0], [0, 0], [3, 1]))


@pytest.mark.parametrize(
    ("sizes", "entropy"),
    [([4, 4, 4, 4], 100.0), ([8, 8, 0, 0], 50.0), ([9, 0, 0, 0], 0.0), ([5], 100.0)],
)
def test_entropy_tells_how_even_clusters_are(sizes: list[int], entropy: float) -> None:
    found = score(counts(*([size] for size in sizes)))
    assert found.entropy == pytest.approx(entropy)


@given(small_matrices.filter(lambda m: m.sum() > 0))
def test_matchings_are_in_order(confusion: np.ndarray) -> None:
    one_to_one = score(confusion).unsup_acc
    merged = score(confusion, merged_match(confusion)).unsup_acc
    others = other_scores(confusion)
    assert one_to_one - 1e-9 <= merged <= others["many_to_one_acc"] + 1e-9
    if len(confusion) <= confusion.shape[1]:
        assert others.keys() == {"many_to_one_miou", "many_to_one_acc"}
        assert merged == one_to_one
    else:
        assert others["merged_acc"] == merged


@given(
    st.integers(2, 5).flatmap(
        lambda c: st.tuples(
            st.just(c),
            st.lists(st.tuples(st.integers(0, c - 1), st.integers(0, c)), min_size=1, max_size=60),
        )
    )
)
def test_scores_agree_with_torchmetrics(case: tuple[int, list[tuple[int, int]]]) -> None:
    num_classes, pixels = case
    clusters = torch.tensor([cluster for cluster, _ in pixels])
    labels = torch.tensor([label for _, label in pixels])
    confusion = confusion_matrix(clusters, labels, num_classes, num_classes, num_classes).numpy()
    if not confusion.any():
        return
    for class_of in (hungarian_match(confusion), majority_match(confusion)):
        found = score(confusion, class_of)
        # Clusters without a labelled pixel may have any class.
        predicted = torch.from_numpy(class_of.clip(min=0))[clusters]
        valid = labels < num_classes
        accuracy = multiclass_accuracy(
            predicted[valid], labels[valid], num_classes, average="micro"
        )
        iou = multiclass_jaccard_index(predicted[valid], labels[valid], num_classes, average="none")
        assert found.unsup_acc == pytest.approx(100 * float(accuracy))
        assert np.nan_to_num(found.iou) == pytest.approx(100 * iou.numpy(), rel=1e-5)


def test_things_and_stuff_are_parts_of_the_classes() -> None:
    classes = ("sky", "cow", "grass", "car")
    iou = np.array([80.0, 20.0, float("nan"), 40.0])
    assert things_and_stuff(iou, classes, ("car", "cow")) == {
        "things_miou": 30.0,
        "stuff_miou": 80.0,
    }
    assert things_and_stuff(iou, classes, ("grass",)) == {"stuff_miou": pytest.approx(140 / 3)}


def test_boundary_f_is_the_harmonic_mean_of_precision_and_recall() -> None:
    assert boundary_f(np.array([10, 5, 8, 8])) == pytest.approx(100 * 2 * 0.5 * 1.0 / 1.5)
    assert boundary_f(np.array([7, 7, 9, 9])) == 100.0
    assert boundary_f(np.array([2, 1, 2, 1])) == 50.0


@pytest.mark.parametrize(
    ("found", "percent"),
    [
        ([0, 0, 0, 0], 100.0),
        ([3, 0, 0, 0], 0.0),
        ([0, 0, 3, 0], 0.0),
        ([3, 0, 5, 0], 0.0),
        ([3, 0, 5, 1], 0.0),
    ],
)
def test_boundary_f_without_boundaries_is_a_number(found: list[int], percent: float) -> None:
    assert boundary_f(np.array(found)) == percent


def test_matrices_of_images_add_up_to_that_of_the_split() -> None:
    random = torch.Generator().manual_seed(0)
    clusters = torch.randint(0, 4, (5, 6, 7), generator=random)
    labels = torch.randint(0, 4, (5, 6, 7), generator=random)
    each = confusion_per_image(clusters, labels, 4, 3, 3)
    for image in range(5):
        one = confusion_matrix(clusters[image], labels[image], 4, 3, 3)
        assert torch.equal(each[image], one)
    assert torch.equal(each.sum(0), confusion_matrix(clusters, labels, 4, 3, 3))


def test_images_are_scored_by_the_matching_of_their_split() -> None:
    images = ImageCounts()
    images.add(torch.tensor([[[4, 0], [0, 4], [0, 0]], [[0, 4], [4, 0], [0, 0]]]))
    images.add(torch.tensor([[[3, 0], [0, 0], [1, 0]]]))
    images.add(torch.tensor([[[0, 0], [0, 0], [0, 0]]]))
    assert images.num_images == 4
    # The second image has everything wrong, the third a pixel in a cluster without a class.
    counts = matched_counts(images, np.array([0, 1, -1]), 2)
    found = counts.miou
    assert found[:3].tolist() == [100, 0, 75]
    assert np.isnan(found[3])
    assert counts.intersection.tolist() == [[4, 4], [0, 0], [3, 0], [0, 0]]
    assert counts.predicted.tolist() == [[4, 4], [4, 4], [3, 0], [0, 0]]
    assert counts.actual.tolist() == [[4, 4], [4, 4], [4, 0], [0, 0]]


def test_images_that_nobody_counted_are_none() -> None:
    assert ImageCounts().entries().shape == (0, 4)


def test_a_class_that_only_the_prediction_has_lowers_no_image_twice() -> None:
    images = ImageCounts()
    images.add(torch.tensor([[[6, 0], [2, 0]]]))
    # Class 1 is not in this image's labels, so the mean is that of class 0 alone.
    assert matched_counts(images, np.array([0, 1]), 2).miou.tolist() == [75]
