"""What the rows of a plan become: decoded, framed, and for training seen through random views.

`reader` walks plans (see `plans`) through a *stream*: in this process (here) or as Ray Data tasks
(`pipeline`); both give the same rows in the same order. No torch here, see `transforms`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from usseg_ray.config import JitterConfig, UserError
from usseg_ray.data.decode import decode_image, decode_label
from usseg_ray.data.photometric import adjust, draw_photometric
from usseg_ray.data.plans import Piece
from usseg_ray.data.shards import read_rows, resolve
from usseg_ray.data.transforms import (
    View,
    evaluation_view,
    training_view,
    view_image,
    view_label,
)
from usseg_ray.keys import key_seed

Block = dict[str, np.ndarray]
"""Rows of a piece: `id` (n,) str and `image` (n, 3, S, S) uint8; where wanted `label` (n, S, S)
int32, `positive` like `image`, `first` (n, 3, 2S, 2S) uint8 and `geometry` (n, 4) float64."""


@dataclass(frozen=True)
class Showing:
    """How the rows of a plan are shown.

    Attributes:
        size: Side of the square that images become, pixels.
        training: Random crops if true, the evaluation frame otherwise.
        labels: Whether rows come with labels; those without one are then left out.
        crop_scale: Smallest share of an image's area in a training crop.
        flip: Whether training crops may be mirrored.
        seed: Keys the views together with epoch and image id.
        pair: How two views of each image are coloured, where a pair is wanted; its crop has at
            least `crop_scale` of the area, and a pair has no label.
    """

    size: int
    training: bool = False
    labels: bool = False
    crop_scale: float = 1.0
    flip: bool = False
    seed: int = 0
    pair: JitterConfig | None = None


Stream = Callable[[str, Sequence[Piece], Showing], Iterator[Block]]
"""Reads pieces of the set at a URI, in order."""


def read_piece(root: str, piece: Piece, showing: Showing) -> Block:
    """Reads, decodes and frames the rows of a piece.

    Args:
        root: URI of the prepared set.
        piece: Which rows, and which partners beside them.
        showing: How they are shown.

    Returns:
        The block; rows without a label are missing where labels are wanted.

    Raises:
        UserError: A stored image does not decode, with its shard and id.
    """
    rows = _rows(root, piece.shard, piece.row_group)[piece.start : piece.stop]
    if showing.labels:
        rows = [row for row in rows if row["label"] is not None]
    shown = [_show(piece.shard, row, piece.epoch, showing) for row in rows]
    if piece.partners:
        for columns, positive in zip(shown, _positives(root, piece, showing), strict=True):
            columns["positive"] = positive
    names = shown[0] if shown else _empty(showing)
    block = {name: np.stack([columns[name] for columns in shown]) for name in names if shown}
    block = block or _empty(showing)
    block["id"] = np.array([row["id"] for row in rows], dtype=object)
    return block


def _rows(root: str, shard: str, row_group: int) -> list[dict[str, Any]]:
    filesystem, path = resolve(root)
    rows: list[dict[str, Any]] = read_rows(filesystem, f"{path}/{shard}", row_group).to_pylist()
    return rows


def _empty(showing: Showing) -> Block:
    size = showing.size
    empty = {"image": np.zeros((0, 3, size, size), np.uint8)}
    return empty | ({"label": np.zeros((0, size, size), np.int32)} if showing.labels else {})


def _show(shard: str, row: dict[str, Any], epoch: int, showing: Showing) -> Block:
    """Frames one row; the columns of a block without their first axis."""
    image = _decoded(shard, row)
    height, width = image.shape[:2]
    if showing.pair is not None:
        return _pair(image, showing, showing.pair, (showing.seed, "pair", epoch, row["id"]))
    if showing.training:
        view = _crop(image, row["id"], epoch, showing)
    else:
        view = evaluation_view(height, width, size=showing.size)
    shown = {"image": view_image(image, view)}
    if showing.labels:
        try:
            label = decode_label(row["label"])
        except ValueError as error:
            raise _damaged(shard, row["id"], error) from None
        shown["label"] = view_label(label, view)
    return shown


def _decoded(shard: str, row: dict[str, Any]) -> UInt8[np.ndarray, "H W 3"]:
    try:
        return decode_image(row["image"])
    except ValueError as error:
        raise _damaged(shard, row["id"], error) from None


def _damaged(shard: str, name: str, error: ValueError) -> UserError:
    return UserError(
        f"{shard}: image {name!r} does not decode ({error}); "
        "the shard is damaged: prepare the set again with --overwrite."
    )


def _crop(image: UInt8[np.ndarray, "H W 3"], name: str, epoch: int, showing: Showing) -> View:
    height, width = image.shape[:2]
    return training_view(
        np.random.default_rng(key_seed(showing.seed, "crop", epoch, name)),
        height,
        width,
        size=showing.size,
        scale=showing.crop_scale,
        flip=showing.flip,
    )


def _positives(root: str, piece: Piece, showing: Showing) -> Iterator[UInt8[np.ndarray, "3 S S"]]:
    """Shows the partners of a piece's rows through training crops of their own."""
    groups = {
        (shard, group): _rows(root, shard, group)
        for shard, group in {partner[:2] for partner in piece.partners}
    }
    for shard, group, index in piece.partners:
        row = groups[shard, group][index]
        image = _decoded(shard, row)
        yield view_image(image, _crop(image, row["id"], piece.epoch, showing))


def _pair(
    image: UInt8[np.ndarray, "H W 3"],
    showing: Showing,
    jitter: JitterConfig,
    key: tuple[int | str, ...],
) -> Block:
    """Makes two differently coloured views of a square and says how they are to be cropped."""
    random = np.random.default_rng(key_seed(*key))
    side, row, column, mirror = random.random(4)
    least = showing.crop_scale**0.5
    square = evaluation_view(*image.shape[:2], size=2 * showing.size)
    base = view_image(image, square).transpose(1, 2, 0)
    first, second = (adjust(base, draw_photometric(random, jitter)) for _ in range(2))
    whole = (0.0, 0.0, 2.0 * showing.size, 2.0 * showing.size)
    return {
        "image": view_image(second, View(whole, showing.size)),
        "first": np.ascontiguousarray(first.transpose(2, 0, 1)),
        "geometry": np.array(
            [least + (1 - least) * side, row, column, showing.flip and mirror < 0.5]
        ),
    }


def stream_here(root: str, pieces: Sequence[Piece], showing: Showing) -> Iterator[Block]:
    """Reads pieces in this process, one after the other."""
    return (read_piece(root, piece, showing) for piece in pieces)


def regroup(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """Cuts and joins blocks to `size` rows each; the last may be smaller."""
    held: list[Block] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block["id"])
        while count >= size:
            joined = _join(held)
            yield {name: column[:size] for name, column in joined.items()}
            held = [{name: column[size:] for name, column in joined.items()}]
            count -= size
    if count:
        yield _join(held)


def mix(blocks: Iterable[Block], window: int, generator: np.random.Generator) -> Iterator[Block]:
    """Shuffles rows within windows of `window` rows."""
    for block in regroup(blocks, window):
        order = generator.permutation(len(block["id"]))
        yield {name: column[order] for name, column in block.items()}


class Taker:
    """Takes exact numbers of rows off a stream of blocks."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks = iter(blocks)
        self._left: Block | None = None

    def take(self, rows: int) -> Iterator[Block]:
        """Yields blocks of `rows` rows in all, cutting the last one where needed."""
        while rows:
            block = self._left if self._left is not None else next(self._blocks)
            count = len(block["id"])
            self._left = None
            if count > rows:
                self._left = {name: column[rows:] for name, column in block.items()}
                block = {name: column[:rows] for name, column in block.items()}
            rows -= min(count, rows)
            yield block


def _join(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
