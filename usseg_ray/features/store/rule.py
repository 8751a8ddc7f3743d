"""Which features are stored: those that come again and fit. All others are computed in each pass.

No measurement decides. Reading a row is far cheaper than computing it, whatever computes it: even
textons, the quickest, take a hundred times as long (docs/features.md). So a second pass pays for
the writing, and room is what is scarce. Scores do not depend on the decision.
"""

from dataclasses import dataclass
from typing import Literal

from usseg_ray.core.errors import UserError

Mode = Literal["auto", "cache", "recompute"]


@dataclass(frozen=True)
class Decision:
    """What is done with features, and why.

    Attributes:
        stored: Whether they are stored; else every pass computes them.
        sentence: Both in a line for the screen.
    """

    stored: bool
    sentence: str


def decide(
    name: str, num_bytes: int, *, passes: float, room: int, reserve: int, mode: Mode = "auto"
) -> Decision:
    """Decides between storing features and computing them in each pass.

    Args:
        name: Names the features on the screen.
        num_bytes: What they take on the disk.
        passes: Walks over all of them that are expected, of all trials together.
        room: Bytes that could be had for them.
        reserve: Bytes of these that are left alone where nobody asked for the store.
        mode: The user's word, which wins where it can be kept.

    Returns:
        The decision.

    Raises:
        UserError: The user insists on a store that does not fit.
    """
    taken = size(num_bytes)
    if mode == "cache" and num_bytes > room:
        raise UserError(
            f"{name}: {taken} do not fit the {size(room)} that the store may take. Give it a "
            "larger disk or limit, or leave the decision to the program."
        )
    if mode != "auto":
        stored, reason = mode == "cache", "as asked"
    elif passes <= 1:
        stored, reason = False, "one pass reads them"
    elif num_bytes > room - reserve:
        stored, reason = False, f"the store has room for {size(max(room - reserve, 0))}"
    else:
        stored, reason = True, f"{passes:.0f} passes read them"
    what = "stored" if stored else "computed in each pass"
    return Decision(stored, f"{name}: {what} ({taken}; {reason}).")


def size(num_bytes: float) -> str:
    """Writes a number of bytes: 602 kB, 71.2 GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            digits = 0 if num_bytes >= 100 * scale else 1
            return f"{num_bytes / scale:.{digits}f} {unit}"
    return f"{num_bytes:.0f} B"
