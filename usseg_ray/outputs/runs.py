"""Runs of equal pixels, and the two ways in which annotation tools write them.

Reference:
    COCO's mask API (run lengths down the columns, packed into letters of six bits), and the
    decoder of Label Studio's brush (a stream of bits after thi.ng's `rle-pack`).
"""

import numpy as np
from jaxtyping import Bool, Int64

_LETTER_BITS, _MORE, _SIGN, _FIRST_LETTER = 5, 0x20, 0x10, 48

_WORD_BITS = 8
_SIZES = (3, 4, 8, 16)
"""Bits that a run's length may take in a brush."""

_LONGEST = 2 ** _SIZES[-1]


def spans(flat: Bool[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " r"], Int64[np.ndarray, " r"]]:
    """Finds where runs of true begin, and where they end (exclusive)."""
    steps = np.diff(flat.astype(np.int8), prepend=0, append=0)
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)


def counts_of(
    part: Bool[np.ndarray, "h w"], top: int, left: int, size: tuple[int, int]
) -> list[int]:
    """Counts pixels down the columns of an image: off, on, off, ...

    Args:
        part: (h, w) bool, a cut-out of the mask; false all round it.
        top: Its first row in the image.
        left: Its first column.
        size: (H, W) of the image.
    """
    height, width = size
    # An empty row below keeps columns apart that do not meet in the image.
    down = np.pad(part, ((0, 1), (0, 0))).T.ravel()
    begins, ends = spans(down)
    step = len(part) + 1
    begins, ends = ((left + at // step) * height + top + at % step for at in (begins, ends))
    apart = begins[1:] != ends[:-1]
    begins, ends = begins[np.r_[True, apart]], ends[np.r_[apart, True]]
    edges = np.stack([begins, ends], axis=1).ravel()
    counts = np.diff(edges, prepend=0).tolist()
    rest = height * width - int(edges[-1])
    return [*counts, rest] if rest else counts


def packed(counts: list[int]) -> str:
    """Packs COCO's counts into letters, from the third on as differences to those two before."""
    letters = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits, value = value & (2**_LETTER_BITS - 1), value >> _LETTER_BITS
            more = value != (-1 if bits & _SIGN else 0)
            letters.append(bits | _MORE if more else bits)
            if not more:
                break
    return bytes(letter + _FIRST_LETTER for letter in letters).decode("ascii")


def brush(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Writes a mask as Label Studio's brush does: four equal bytes a pixel, in runs.

    Args:
        mask: (H, W) bool.

    Returns:
        Bytes.
    """
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    begins = np.r_[0, edges]
    lengths = 4 * np.diff(begins, append=flat.size)
    bits = [f"{4 * flat.size:032b}", f"{_WORD_BITS - 1:05b}", *(f"{s - 1:04b}" for s in _SIZES)]
    for length, on in zip(lengths.tolist(), flat[begins].tolist(), strict=True):
        bits.extend(_packets(length, 255 if on else 0))
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))


def _packets(length: int, value: int) -> list[str]:
    """A run as a stream has it: a one, which size its length has, its length less one, the word."""
    word, found = f"{value:0{_WORD_BITS}b}", []
    while length:
        taken = min(length, _LONGEST)
        which = next(index for index, size in enumerate(_SIZES) if taken <= 2**size)
        found.append(f"1{which:02b}{taken - 1:0{_SIZES[which]}b}{word}")
        length -= taken
    return found
