import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.prepare.meaning import Meaning, check_values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({0, 255}, "values 0 and 255 alone, .*one class is left"),
        ({1, 255}, "values 1 and 255 alone"),
        ({255}, "Every pixel of the labels is void"),
        ({0, 120, 240}, "241 classes of which 238 never occur; their values are 0, 120, 240"),
        ({38, 75, 113, 255}, "114 classes of which 111 never occur"),
    ],
)
def test_values_that_cannot_be_meant(values: set[int], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        check_values(values, Meaning(None, 255))
    assert "--classes" in str(refused.value)


@pytest.mark.parametrize("values", [set(), {0}, {0, 1, 255}, {0, 2, 5, 19}, set(range(0, 60, 2))])
def test_values_that_may_be_meant(values: set[int]) -> None:
    assert check_values(values, Meaning(None, 255)) == []


def test_classes_from_1_are_said() -> None:
    (note,) = check_values({1, 2, 3, 255}, Meaning(None, 255))
    assert '{"ignore_index": 0}' in note
    assert check_values({1, 2, 3, 255}, Meaning(4, 255)) == []


def test_named_classes_may_be_absent_but_for_all_but_one() -> None:
    assert check_values({0, 120, 255}, Meaning(150, 255)) == []
    with pytest.raises(UserError, match="one class is left"):
        check_values({0, 255}, Meaning(2, 255))


def test_values_of_a_mapping_are_told_as_the_classes_that_they_mean() -> None:
    counted_from_1 = Meaning(2, 255, {0: 255, 1: 0, 2: 1})
    with pytest.raises(UserError, match=r"As their values are read, .* class 0 and void alone"):
        check_values({0, 255}, counted_from_1)
