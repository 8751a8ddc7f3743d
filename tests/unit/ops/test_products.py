import pytest
import torch

from tests.rounded import as_on_a_gpu, tf32
from usseg_ray.ops.products import rounded_products, rounding


def settings() -> bool:
    return bool(torch.backends.cuda.matmul.allow_tf32)


@pytest.mark.parametrize(
    ("device", "allowed", "expected"),
    [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)],
)
def test_products_are_rounded_where_that_is_allowed(
    device: str, allowed: bool, expected: bool
) -> None:
    with rounding(allowed=allowed), rounded_products(torch.device(device)):
        assert settings() is expected
    assert not settings()


def test_it_ends_with_its_block_whatever_happens_there() -> None:
    cuda = torch.device("cuda")
    with rounding(allowed=True), rounding(allowed=False), rounded_products(cuda):
        assert not settings()
    with pytest.raises(ValueError, match="within"), rounding(allowed=True), rounded_products(cuda):
        raise ValueError("within")
    with rounded_products(cuda):
        assert not settings()


def test_a_cpu_can_round_as_a_gpu_does() -> None:
    numbers = torch.tensor([1.0, 1 + 2**-11, 1 + 2**-10, 1 + 3 * 2**-12, -3.1415927])
    assert torch.equal(
        tf32(numbers), torch.tensor([1.0, 1 + 2**-10, 1 + 2**-10, 1 + 2**-10, -3.140625])
    )
    matrix = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    with as_on_a_gpu(torch.device("cpu")):
        found = matrix @ matrix
    assert torch.equal(found, tf32(matrix) @ tf32(matrix))
    assert not torch.equal(found, matrix @ matrix)
