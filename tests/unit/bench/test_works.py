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
    made = works.contrastive(SMALL).ours, works.propagation(SMALL), works.modularity(SMALL)
    for work, gradients in zip(made, (2, 1, 1), strict=True):
        _, *found = parts(work())
        assert len(found) == gradients
        assert all(part.isfinite().all() and part.any() for part in found)


def test_a_work_gives_the_same_every_time() -> None:
    work = works.contrastive(SMALL).ours
    for first, second in zip(parts(work()), parts(work()), strict=True):
        assert torch.equal(first, second)


def test_a_part_of_the_official_contrast_has_the_first_images_as_anchors() -> None:
    whole, part = works.contrastive(SMALL).official(), works.contrastive(SMALL, 1).official()
    loss, codes, _ = parts(part)
    assert loss != parts(whole)[0]
    # The other image's codes are keys.
    assert codes.any(1).all()


def test_weights_are_those_of_nine_neighbours() -> None:
    weights = works.neighbour_weights(SMALL)()
    assert isinstance(weights, Tensor)
    assert weights.shape == (SMALL.images, 9, SMALL.side, SMALL.side)


def test_products_are_work_only() -> None:
    assert works.code_product(SMALL)() is None


def test_the_bank_is_full_and_stays_where_it_is() -> None:
    steps = ConceptSteps(BANK)
    size, place = BANK.codes * BANK.entries, steps.bank.values.data_ptr()
    for _ in range(3):
        values = steps.upkeep()
        assert len(values) == size
        assert values.data_ptr() == place
