"""Reference pools: which images and patches get in, whatever their order."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, FeatureMap, Step
from usseg_ray.methods.parts.reference_pool import (
    ReferencePool,
    add_patches,
    is_due,
    patch_rows,
    pool_walks,
)

NAMES = [f"image-{number}" for number in range(9)]
MAPS = torch.randn(9, 4, 2, 3, generator=torch.Generator().manual_seed(0))


class Crops:
    """Walks over a few images in portions, and remembers how it was asked."""

    def __init__(self, images: int, portion: int) -> None:
        self.images, self.portion, self.asked = images, portion, list[tuple[int, int]]()

    def __call__(self, walk: int, batch_size: int) -> Iterator[Batch]:
        self.asked.append((walk, batch_size))
        for start in range(0, self.images, self.portion):
            some = slice(start, min(start + self.portion, self.images))
            maps = MAPS[some]
            yield Batch(tuple(NAMES[some]), torch.zeros(len(maps), 3, 2, 3), FeatureMap(maps))


def filled(order: list[int], key: int = 0, size: int = 5) -> Tensor:
    pool = ReferencePool(size, 4)
    sample = pool.sample()
    for image in order:
        add_patches(sample, MAPS[image : image + 1], [NAMES[image]], key, "pool")
    pool.fill(sample)
    return pool.rows


def test_a_pool_does_not_depend_on_the_order_of_images() -> None:
    forth = filled(list(range(9)))
    assert torch.equal(forth, filled(list(range(9))[::-1]))
    assert not torch.equal(forth, filled(list(range(9)), key=1))


def test_rows_are_unit_patches_of_different_images() -> None:
    found = filled(list(range(9)), size=9)
    patches = normalize(MAPS, dim=1).flatten(2).mT.flatten(0, 1)
    sources = torch.cdist(found, patches).argmin(1)
    torch.testing.assert_close(found, patches[sources])
    assert len((sources // 6).unique()) == 9
    assert len((sources % 6).unique()) > 1


def test_given_patches_are_taken() -> None:
    pool = ReferencePool(9, 4)
    sample = pool.sample()
    patches = {name: number % 6 for number, name in enumerate(NAMES)}
    add_patches(sample, MAPS, NAMES, 0, patches=patches)
    pool.fill(sample)
    expected = torch.stack([MAPS[i].flatten(1)[:, i % 6] for i in range(9)])
    distances = torch.cdist(pool.rows, normalize(expected, dim=1))
    assert distances.amin(1).max() < 1e-6
    assert len(distances.argmin(1).unique()) == 9


def test_candidates_are_unit_rows_beside_their_best_match() -> None:
    pool = ReferencePool(5, 4)
    pool.rows.copy_(filled(list(range(9))))
    found = pool.candidates(MAPS)
    expected = normalize(MAPS, dim=1).permute(0, 2, 3, 1).reshape(-1, 4)
    torch.testing.assert_close(found.rows, expected)
    torch.testing.assert_close(found.best, (expected @ pool.rows.mT).max(1).values)
    assert torch.equal(patch_rows(MAPS)[8], MAPS[1, :, 0, 2])


@pytest.mark.parametrize(
    ("size", "batches", "walks"), [(4, 1, 1), (5, 2, 1), (9, 3, 1), (20, 7, 3)]
)
def test_walks_end_once_a_pool_is_full(size: int, batches: int, walks: int) -> None:
    crops = Crops(9, 4)
    seen = list(pool_walks(crops, size, step=7))
    assert len(seen) == batches
    assert len({walk for walk, _ in seen}) == walks == len(crops.asked)
    # Walks of pools never show the views of an epoch.
    assert min(walk for walk, _ in crops.asked) > 100_000


def test_steps_walk_differently() -> None:
    crops = Crops(9, 4)
    for step in (0, 100):
        list(pool_walks(crops, 30, step))
    assert len(set(crops.asked)) == len(crops.asked) == 8


def test_no_images_are_refused() -> None:
    with pytest.raises(UserError, match="no training images"):
        list(pool_walks(Crops(0, 4), 3, 0))


@pytest.mark.parametrize(
    ("epochs", "each", "every", "expected"),
    [
        (3, 12, 5, [0, 5, 10, 17, 22, 29, 34]),
        (3, 5, 5, [0]),
        (2, 10, None, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]),
        (23, 1, None, [0, 3, 5, 7, 10, 12, 14, 17, 19, 21]),
        (2, 2, None, [0, 1, 2, 3]),
    ],
)
def test_pools_are_renewed_within_epochs_or_ten_times_in_a_run(
    epochs: int, each: int, every: int | None, expected: list[int]
) -> None:
    total = epochs * each
    steps = [Step(index, total, index % each) for index in range(total)]
    assert [step.index for step in steps if is_due(step, every)] == expected
