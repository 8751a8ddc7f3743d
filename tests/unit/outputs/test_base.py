from tests.outputs import NAMES
from usseg_ray.models.names import Names
from usseg_ray.outputs.base import colours, titles


def test_outputs_that_share_a_name_are_told_apart() -> None:
    assert titles(NAMES) == {0: "road: old", 1: "sky (1)", 2: "sky (2)", 3: "shadow"}


def test_no_two_outputs_share_a_colour_and_none_is_black() -> None:
    found = colours(NAMES)
    assert found[0] == (0x80, 0x40, 0x80)
    assert len({*found.values(), (0, 0, 0)}) == 5
    assert len(set(colours(Names.default(60)).values())) == 60
