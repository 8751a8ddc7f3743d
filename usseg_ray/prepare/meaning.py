"""What the numbers and colours of a set's labels mean, and whether they can be meant.

Labels come as whatever a tool wrote. Plausible ones that mean something else are worse than broken
ones: a mask of 0 and 255 would be one class and a score of 100.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from usseg_ray.core.errors import UserError

Colour = tuple[int, int, int]

_EMPTY_PER_CLASS, _MANY = 3, 20

_HOW = (
    'Say what values mean: --classes "0=background,255=object", or in dataset.json '
    '{"classes": {"0": "background", "255": "object"}}.'
)


@dataclass(frozen=True)
class Meaning:
    """What label values mean.

    Attributes:
        num_classes: Classes that the set names, or `None`.
        ignore_index: Class index of pixels without a class.
        class_of: Label value in the files -> class index or `ignore_index`; `None` where files hold
            class indices.
        colours: Colour in the files -> the same, for labels that are painted.
    """

    num_classes: int | None
    ignore_index: int
    class_of: Mapping[int, int] | None = None
    colours: Mapping[Colour, int] = field(default_factory=dict)


def check_values(values: Collection[int], meaning: Meaning) -> list[str]:
    """Refuses what cannot be meant, and says what may be.

    Args:
        values: Class indices that occur in the labels, and the ignore index if it does; none where
            there are no labels.
        meaning: Of the set.

    Returns:
        Lines for the user.

    Raises:
        UserError: All pixels are void, one class is left beside void, or most classes that were
            counted never occur.
    """
    known = sorted(set(values) - {meaning.ignore_index})
    void = meaning.ignore_index in values
    if values and not known:
        raise UserError(f"Every pixel of the labels is void ({meaning.ignore_index}). {_HOW}")
    if len(known) == 1 and void:
        raise UserError(
            f"{_alone(known[0], meaning)}, so one class is left and every score would be 100.\n"
            f"{_HOW}"
        )
    if meaning.num_classes is not None or not known:
        return []
    empty = known[-1] + 1 - len(known)
    if known[-1] >= _MANY and empty > _EMPTY_PER_CLASS * len(known):
        raise UserError(
            f"The labels would have {known[-1] + 1} classes of which {empty} never occur; their "
            f"values are {_some(known)}. Are they grey levels?\n{_HOW}"
        )
    if known[0] > 0:
        return [
            "No label holds the value 0, so class_0 stays empty. If classes count from 1 and 0 is "
            'void, say {"ignore_index": 0} in dataset.json.'
        ]
    return []


def _alone(index: int, meaning: Meaning) -> str:
    if meaning.class_of is not None or meaning.colours:
        return f"As their values are read, the labels hold class {index} and void alone"
    void = meaning.ignore_index
    return f"The labels hold the values {index} and {void} alone, and {void} is void"


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
