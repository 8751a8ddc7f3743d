"""Sampling, choice of negatives, centring and both losses, besides the vectors."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from usseg_ray.methods.parts.correspondence import (
    Draws,
    Maps,
    PairTerms,
    Shifts,
    Switches,
    avoid_self,
    centre,
    correspondence_terms,
    moments,
    pair_losses,
    sample,
    smoothness,
    unit_rows,
)

RANDOM = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=RANDOM)


def places(count: int, side: int, reach: float = 1.0) -> Tensor:
    return reach * (2 * torch.rand(count, side, side, 2, dtype=torch.float64, generator=RANDOM) - 1)


@pytest.mark.parametrize(("height", "width"), [(6, 4), (1, 5), (3, 1), (1, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_sampling_is_torch_s_bilinear_one(height: int, width: int, channels_last: bool) -> None:
    maps, coords = normal(3, 2, height, width), places(3, 5, reach=1.6)
    if channels_last:
        maps = maps.contiguous(memory_format=torch.channels_last)
    maps.requires_grad_()
    read = sample(maps, coords)
    expected = grid_sample(maps, coords.transpose(1, 2), padding_mode="border", align_corners=True)
    torch.testing.assert_close(read, expected)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(read, maps, upstream), torch.autograd.grad(expected, maps, upstream)
    )


def test_corners_are_the_outermost_cells() -> None:
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    coords = torch.tensor([[[[-1.0, -1], [1, -1]], [[-1, 1], [1, 1]]]])
    # The axes are swapped: the places' first axis is the result's second.
    assert sample(maps, coords).tolist() == [[[[0.0, 8.0], [3.0, 11.0]]]]


def test_source_names_the_map_to_read() -> None:
    maps, coords = normal(3, 2, 4, 4), places(5, 2)
    source = torch.tensor([2, 0, 0, 1, 2])
    torch.testing.assert_close(sample(maps, coords, source), sample(maps[source], coords))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_others_are_never_oneself(size: int) -> None:
    rows = torch.stack([torch.randperm(size, generator=RANDOM) for _ in range(50)])
    chosen = avoid_self(rows)
    own = torch.arange(size)
    assert (chosen != own).all()
    assert ((chosen == rows) | (rows == own)).all()


def test_a_lone_image_is_its_own_negative() -> None:
    assert avoid_self(torch.zeros(4, 1, dtype=torch.int64)).tolist() == [[0]] * 4


def test_unit_rows_leave_zero_as_it_is() -> None:
    maps = normal(2, 3, 2, 2)
    maps[0, :, 0, 1] = 0
    rows = unit_rows(maps)
    lengths = rows.norm(dim=2)
    assert lengths[0].tolist() == pytest.approx([1, 0, 1, 1])
    torch.testing.assert_close(rows[1, 2] * maps[1, :, 1, 0].norm(), maps[1, :, 1, 0])


def test_centring_keeps_the_mean_and_evens_the_rows() -> None:
    cosines = normal(2, 3, 5)
    centred = centre(cosines)
    torch.testing.assert_close(centred.mean(), cosines.mean())
    torch.testing.assert_close(centred.mean(2), cosines.mean().expand(2, 3))
    torch.testing.assert_close(centred.diff(dim=2), cosines.diff(dim=2))


def test_pairs_above_the_shift_attract() -> None:
    features = torch.tensor([[[0.9, 0.1]]])
    codes = torch.tensor([[[0.5, 0.5]]], requires_grad=True)
    losses = pair_losses(features, codes, 0.4, Switches(pointwise=False))
    assert losses.flatten().tolist() == pytest.approx([-0.25, 0.15])
    (gradient,) = torch.autograd.grad(losses.sum(), codes)
    assert gradient.flatten().tolist() == pytest.approx([-0.5, 0.3])


@pytest.mark.parametrize(
    ("switches", "kept"),
    [
        (Switches(), [0.0, 0.0, 0.5, 0.9]),
        (Switches(stabilise=True), [0.0, 0.0, 0.5, 0.8]),
        (Switches(zero_clamp=False), [-0.9, -0.5, 0.5, 0.9]),
        (Switches(zero_clamp=False, stabilise=True), [-0.9, -0.5, 0.5, 0.8]),
    ],
)
def test_clamps(switches: Switches, kept: list[float]) -> None:
    codes = torch.tensor([[[-0.9, -0.5, 0.5, 0.9]]])
    losses = pair_losses(torch.ones(1, 1, 4), codes, 0.0, switches)
    assert losses.flatten().tolist() == pytest.approx([-value for value in kept])


def terms_of(anchors: Maps, positives: Maps, draws: Draws) -> PairTerms:
    return correspondence_terms(anchors, positives, draws, Shifts(0.1, 0.2, 0.3), Switches())


@pytest.fixture
def inputs() -> tuple[Maps, Maps, Draws]:
    anchors, positives = (Maps(normal(3, 6, 4, 4), normal(3, 5, 4, 4)) for _ in range(2))
    negatives = torch.tensor([[1, 2, 0], [2, 0, 1]])
    return anchors, positives, Draws(places(3, 4), places(3, 4), negatives)


def test_features_get_no_gradient_and_both_codes_do(inputs: tuple[Maps, Maps, Draws]) -> None:
    anchors, positives, _ = inputs
    tensors = [*anchors, *positives]
    for tensor in tensors:
        tensor.requires_grad_()
    sum(term.loss for term in terms_of(*inputs)).backward()  # type: ignore[union-attr]
    assert [tensor.grad is None for tensor in tensors] == [True, False, True, False]
    assert positives.codes.grad is not None
    assert positives.codes.grad.any()
    assert not any(term.similarity.requires_grad for term in terms_of(*inputs))


def test_lengths_do_not_matter(inputs: tuple[Maps, Maps, Draws]) -> None:
    anchors, positives, draws = inputs
    longer = [Maps(3 * maps.features, 0.2 * maps.codes) for maps in (anchors, positives)]
    torch.testing.assert_close(terms_of(longer[0], longer[1], draws), terms_of(*inputs))


def test_negatives_are_the_named_images(inputs: tuple[Maps, Maps, Draws]) -> None:
    anchors, _, draws = inputs
    found = terms_of(*inputs).negative
    row_by_row = [
        # Another image as the positive is what a negative is, with the other shift.
        correspondence_terms(
            anchors,
            Maps(anchors.features[row], anchors.codes[row]),
            draws,
            Shifts(0.0, 0.3, 0.0),
            Switches(),
        ).inter
        for row in draws.negatives
    ]
    for field in ("loss", "similarity"):
        mean = torch.stack([getattr(term, field) for term in row_by_row]).mean()
        torch.testing.assert_close(getattr(found, field), mean)


def test_smoothness_is_least_where_labels_follow_features() -> None:
    looks = torch.eye(4, dtype=torch.float64)[torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3]])]
    features = looks.permute(0, 2, 1)[:, :, None]
    labels = torch.eye(2, dtype=torch.float64)
    right, wrong, one = (
        moments(Maps(features, labels[torch.tensor([row, row])].permute(0, 2, 1)[:, :, None]))
        for row in ([0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0])
    )
    energy = [float(smoothness(images, images, 0.1)) for images in (right, wrong, one)]
    assert energy[0] < energy[2] < energy[1]
    assert energy[2] == pytest.approx(0)


def test_moments_of_other_images() -> None:
    maps = Maps(normal(3, 6, 4, 4), normal(3, 5, 4, 4))
    order = torch.tensor([2, 2, 0])
    expected = moments(Maps(*(part[order] for part in maps)))
    torch.testing.assert_close(moments(maps).of(order), expected)
    features = maps.features.requires_grad_()
    assert not moments(Maps(features, maps.codes)).joint.requires_grad


@pytest.mark.parametrize("kind", ["zeros", "ones"])
def test_degenerate_maps_are_finite(kind: str) -> None:
    fill = torch.zeros if kind == "zeros" else torch.ones
    codes = fill(2, 3, 2, 2).requires_grad_()
    maps = Maps(fill(2, 6, 2, 2), codes)
    coords = places(2, 3).float()
    terms = terms_of(maps, maps, Draws(coords, coords, torch.tensor([[1, 0]])))
    images = moments(maps)
    loss = terms.intra.loss + terms.inter.loss + terms.negative.loss
    loss = loss + smoothness(images, images, 0.1)
    loss.backward()
    assert loss.isfinite()
    assert codes.grad is not None
    assert codes.grad.isfinite().all()
