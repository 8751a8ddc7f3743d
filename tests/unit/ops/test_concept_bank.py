"""The concept bank against queues; official vectors are in tests/numerics."""

import copy
import io
from collections import deque

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from usseg_ray.ops.concept_bank import ConceptBank


def naive_bank(
    num_codes: int, capacity: int, batches: list[tuple[Tensor, Tensor, Tensor]]
) -> list[deque[Tensor]]:
    """Queues of the definition."""
    queues: list[deque[Tensor]] = [deque(maxlen=capacity) for _ in range(num_codes)]
    for values, own, priorities in batches:
        for code in range(num_codes):
            places = (own == code).nonzero()[:, 0]
            chosen = places[priorities[places].argsort()][: len(places) // 2]
            queues[code].extend(values[chosen])
    return queues


def contents(bank: ConceptBank) -> list[list[Tensor]]:
    return [
        [
            bank.values[bank.slots[code, number % bank.capacity]]
            for number in range(max(0, added - bank.capacity), added)
        ]
        for code, added in enumerate(bank.added.tolist())
    ]


def batches(steps: int, count: int = 30) -> list[tuple[Tensor, Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(count, 3, generator=random),
            torch.randint(7, (count,), generator=random),
            torch.rand(count, generator=random),
        )
        for _ in range(steps)
    ]


@pytest.mark.parametrize("capacity", [1, 2, 5, 100])
def test_bank_against_queues(capacity: int) -> None:
    bank = ConceptBank(9, 3, capacity)
    steps = batches(8)
    for number, (values, own, priorities) in enumerate(steps, start=1):
        bank.update(values, own, priorities)
        queues = naive_bank(9, capacity, steps[:number])
        assert len(bank) == sum(map(len, queues))
        for found, expected in zip(contents(bank), queues, strict=True):
            assert len(found) == len(expected)
            for value, raw in zip(found, expected, strict=True):
                torch.testing.assert_close(value, normalize(raw, dim=0))
    keys = bank.keys()
    assert len(keys.values) == len(keys.codes) == len(bank)
    assert torch.equal(
        keys.codes.bincount(minlength=9), torch.tensor([len(queue) for queue in queues])
    )


def test_a_single_token_does_not_enter() -> None:
    bank = ConceptBank(4, 2, 5)
    bank.update(torch.ones(4, 2), torch.arange(4), torch.rand(4))
    assert len(bank) == 0
    bank.update(torch.ones(3, 2), torch.tensor([1, 1, 1]), torch.rand(3))
    assert bank.keys().codes.tolist() == [1]


@pytest.mark.parametrize(("share", "entries"), [(0.2, 2), (0.5, 5), (1.0, 10)])
def test_share(share: float, entries: int) -> None:
    bank = ConceptBank(2, 2, 100)
    bank.update(torch.rand(10, 2), torch.zeros(10, dtype=torch.int64), torch.rand(10), share)
    assert len(bank) == entries


def test_the_order_of_tokens_does_not_matter() -> None:
    ((values, own, priorities),) = batches(1)
    straight, mixed = ConceptBank(7, 3, 2), ConceptBank(7, 3, 2)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    straight.update(values, own, priorities)
    mixed.update(values[order], own[order], priorities[order])
    for name, value in straight.state_dict().items():
        assert torch.equal(value, mixed.state_dict()[name])


def test_memory_follows_what_is_held() -> None:
    bank = ConceptBank(2048, 64, 100)
    assert bank.values.numel() == 0
    for values, own, priorities in batches(20):
        wide = values.repeat(1, 22)[:, :64]
        bank.update(wide, own, priorities)
        assert len(bank) <= len(bank.values) < 1.5 * len(bank) + 30
    full = ConceptBank(2, 3, 4)
    for values, own, priorities in batches(5):
        full.update(values, own % 2, priorities)
    assert len(full) == len(full.values) == 8
    full.clear()
    assert len(full) == full.values.numel() == 0
    assert full.values.untyped_storage().nbytes() == 0


@pytest.mark.parametrize("steps", [0, 1, 6])
@pytest.mark.parametrize("before", [0, 3])
def test_a_state_of_any_size_loads_and_goes_on(steps: int, before: int) -> None:
    bank, other = ConceptBank(7, 3, 4), ConceptBank(7, 3, 4)
    given = batches(10)
    for batch in given[:steps]:
        bank.update(*batch)
    for batch in given[:before]:
        other.update(*batch)
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file), strict=True)
    for batch in given[6:]:
        bank.update(*batch)
        other.update(*batch)
    for name, value in bank.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_a_state_has_the_rows_that_are_used_alone() -> None:
    bank = ConceptBank(7, 3, 40)
    for batch in batches(6):
        bank.update(*batch)
    saved = bank.state_dict()
    assert 0 < len(bank) == len(saved["values"]) == len(saved["codes"]) < len(bank.values)
    # PyTorch writes all memory that a view is of.
    assert saved["values"].untyped_storage().nbytes() == 4 * 3 * len(bank)
    assert torch.equal(saved["values"], bank.keys().values)


def test_a_loaded_state_is_a_copy() -> None:
    bank = ConceptBank(7, 3, 4)
    bank.update(*batches(1)[0])
    state = copy.deepcopy(bank.state_dict())
    other = ConceptBank(7, 3, 4)
    other.load_state_dict(state)
    for batch in batches(4):
        other.update(*batch)
    assert torch.equal(state["values"], bank.values)


def test_a_bank_of_another_clusterbook_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for slots"):
        ConceptBank(7, 3, 4).load_state_dict(ConceptBank(8, 3, 4).state_dict())
