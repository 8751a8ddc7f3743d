"""Label tables of published data sets against those of the official code, exact."""

from collections.abc import Callable
from typing import Any

from usseg_ray.prepare.sets import find_set


def test_coco_stuff_labels_are_grouped_as_in_the_official_table(
    golden: Callable[[str], dict[str, Any]],
) -> None:
    official = golden("hp/coco_fine_to_coarse.npz")["coarse_of_fine"].tolist()
    ours = find_set("cocostuff27").class_of
    assert [ours[value] for value in range(182)] == official
    assert ours.keys() - set(range(182)) == {255}
