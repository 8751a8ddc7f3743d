import torch
from torch import Tensor

from usseg_ray.bench import works
from usseg_ray.bench.works import ConceptSteps, Sizes

SMALL = Sizes(images=2, side=6, features=16, dim=8, pool=8, graphs=2, patches=30)
BANK = Sizes(images=2, features=8, tokens=12, codes=16, projection=8, entries=4)


def parts(result: object) -> list[Tensor]:
    assert isinstance(result, list)
    return result


def test_losses_run_backward_to_their_inputs() -> None:
    for make, gradients in ((works.contrastive, 2), (works.propagation, 1), (works.modularity, 1)):
        _, *found = parts(make(SMALL)())
        assert len(found) == gradients
        assert all(part.isfinite().all() and part.any() for part in found)


def test_a_work_gives_the_same_every_time() -> None:
    work = works.contrastive(SMALL)
    for first, second in zip(parts(work()), parts(work()), strict=True):
        assert torch.equal(first, second)


def test_weights_are_those_of_nine_neighbours() -> None:
    weights = works.neighbour_weights(SMALL)()
    assert isinstance(weights, Tensor)
    assert weights.shape == (SMALL.images, 9, SMALL.side, SMALL.side)


def test_products_are_work_only() -> None:
    assert works.eight_products(SMALL)() is None


def test_the_bank_is_full_and_stays_where_it_is() -> None:
    steps = ConceptSteps(BANK)
    size, place = BANK.codes * BANK.entries, steps.bank.values.data_ptr()
    for _ in range(3):
        values = steps.upkeep()
        assert len(values) == size
        assert values.data_ptr() == place
