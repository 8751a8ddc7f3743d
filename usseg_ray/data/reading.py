"""What the rows of a plan become: decoded, framed, and for training seen through random views.

`reader` walks plans (see `plans`) through a *stream*: in this process (here) or as tasks of Ray
(`cluster.ray_stream`); both give the same rows in the same order. No torch here, see `transforms`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import UInt8

from usseg_ray.core.config import JitterConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import resolve
from usseg_ray.core.keys import key_seed
from usseg_ray.core.views import Crops, FixedView, Frame
from usseg_ray.data.blocks import Block
from usseg_ray.data.decode import decode_image, decode_label
from usseg_ray.data.plans import Piece
from usseg_ray.data.recolour import adjust, draw_recolouring
from usseg_ray.data.shards import read_rows
from usseg_ray.data.transforms import (
    View,
    fixed_crop,
    frame_image,
    frame_label,
    num_fixed_crops,
    training_view,
    view_image,
)


@dataclass(frozen=True)
class Showing:
    """How the rows of a plan are shown.

    Attributes:
        frame: What whole images, and fixed crops, are brought to; random crops are squares of its
            size.
        crops: How training crops are cut; whole images are shown if unset.
        labels: Whether rows come with labels; those without one are then left out.
        seed: Keys the views together with walk and image id.
        pair: How two views of each image are coloured, where a pair is wanted; its crop has at
            least `crops.scale` of the area, and a pair has no label.
        every: Whether each image is shown through all of its fixed crops, one row after the other
            and none mirrored, without labels or partners.
    """

    frame: Frame
    crops: Crops | None = None
    labels: bool = False
    seed: int = 0
    pair: JitterConfig | None = None
    every: bool = False

    @property
    def views(self) -> int:
        """Rows that each image becomes."""
        if not self.every or self.crops is None:
            return 1
        return num_fixed_crops(self.crops.policy, self.crops.ratios)

    @property
    def whole(self) -> bool:
        """Whether rows differ in shape."""
        return self.crops is None and self.frame.crop == "whole"

    @property
    def view(self) -> FixedView | None:
        """How each image looks in every walk, so that its features may be stored.

        `None` where walks differ, and where rows differ in shape.
        """
        if self.pair is not None or self.whole:
            return None
        if self.crops is not None and (self.crops.policy == "random" or self.crops.flip):
            return None
        return FixedView.of(self.frame, self.crops)


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
    rows = list(enumerate(_rows(root, piece.shard, piece.row_group)[piece.start : piece.stop]))
    if showing.labels:
        rows = [(index, row) for index, row in rows if row["label"] is not None]
    shown = [
        columns for _, row in rows for columns in _shows(piece.shard, row, piece.walk, showing)
    ]
    if piece.partners:
        for columns, positive in zip(shown, _positives(root, piece, showing), strict=True):
            columns.update(positive)
    names = shown[0] if shown else {}
    block = {name: _column([columns[name] for columns in shown], showing) for name in names}
    block = block or _empty(showing)
    ids = [row["id"] for _, row in rows for _ in range(showing.views)]
    block["id"] = np.array(ids, dtype=object)
    numbers = [piece.number + index for index, _ in rows for _ in range(showing.views)]
    block["number"] = np.array(numbers, dtype=np.int64)
    if showing.every:
        block["crop"] = np.tile(np.arange(showing.views), len(rows))
    return block


def number_piece(root: str, piece: Piece, showing: Showing) -> Block:
    """Says which rows a piece shows, as `read_piece` does, without showing them.

    Args:
        root: URI of the prepared set.
        piece: Which rows, and which partners beside them.
        showing: How they would be shown; their views repeat, and labels are not wanted.

    Returns:
        The block, with images of no pixels.
    """
    names = _ids(root, piece.shard, piece.row_group)[piece.start : piece.stop]
    crops = showing.crops
    nothing = np.zeros((len(names), 3, 0, 0), np.uint8)
    block: Block = {
        "id": np.array(names, dtype=object),
        "image": nothing,
        "number": piece.number + np.arange(len(names), dtype=np.int64),
    }
    if crops is not None:
        chosen = [_crop_number(name, piece.walk, showing.seed, crops) for name in names]
        block["crop"] = np.array(chosen, dtype=np.int64)
    if piece.partners and crops is not None:
        partners = [
            (partner.number, _ids(root, partner.shard, partner.row_group)[partner.row])
            for partner in piece.partners
        ]
        block["positive"] = nothing
        block["positive_number"] = np.array([number for number, _ in partners], dtype=np.int64)
        block["positive_crop"] = np.array(
            [_crop_number(name, piece.walk, showing.seed, crops) for _, name in partners],
            dtype=np.int64,
        )
    return block


@lru_cache(maxsize=4096)
def _ids(root: str, shard: str, row_group: int) -> tuple[str, ...]:
    filesystem, path = resolve(root)
    table = read_rows(filesystem, f"{path}/{shard}", row_group, ["id"])
    return tuple(table.column("id").to_pylist())


def stream_numbers(root: str, pieces: Sequence[Piece], showing: Showing) -> Iterator[Block]:
    """Says which rows pieces show, without showing them; a `Stream`."""
    return (number_piece(root, piece, showing) for piece in pieces)


def _rows(root: str, shard: str, row_group: int) -> list[dict[str, Any]]:
    filesystem, path = resolve(root)
    rows: list[dict[str, Any]] = read_rows(filesystem, f"{path}/{shard}", row_group).to_pylist()
    return rows


def _column(values: list[np.ndarray], showing: Showing) -> np.ndarray:
    if not showing.whole:
        return np.stack(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _empty(showing: Showing) -> Block:
    size = showing.frame.size
    if showing.whole:
        return {name: np.empty(0, dtype=object) for name in ("image", "label")}
    empty = {"image": np.zeros((0, 3, size, size), np.uint8)}
    return empty | ({"label": np.zeros((0, size, size), np.int32)} if showing.labels else {})


def _shows(shard: str, row: dict[str, Any], walk: int, showing: Showing) -> Iterator[Block]:
    """Yields all rows that one image becomes."""
    if not showing.every or showing.crops is None:
        yield _show(shard, row, walk, showing)
        return
    image = _decoded(shard, row)
    for number in range(showing.views):
        yield {"image": _fixed(image, number, showing.frame.size, showing.crops)}


def _show(shard: str, row: dict[str, Any], walk: int, showing: Showing) -> Block:
    """Frames one row; the columns of a block without their first axis."""
    image = _decoded(shard, row)
    if showing.pair is not None and showing.crops is not None:
        key = (showing.seed, "pair", walk, row["id"])
        return _pair(image, showing.frame.size, showing.crops, showing.pair, key)
    if showing.crops is not None:
        return _crop(image, row["id"], walk, showing, showing.crops)
    shown: Block = {"image": frame_image(image, showing.frame)}
    if showing.labels:
        try:
            label = decode_label(row["label"])
        except ValueError as error:
            raise _damaged(shard, row["id"], error) from None
        shown["label"] = frame_label(label, showing.frame)
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


def _crop(
    image: UInt8[np.ndarray, "H W 3"], name: str, walk: int, showing: Showing, crops: Crops
) -> Block:
    """Cuts the crop that an image shows in a walk."""
    random = np.random.default_rng(key_seed(showing.seed, "crop", walk, name))
    size = showing.frame.size
    if crops.policy == "random":
        sides = image.shape[:2]
        view = training_view(random, *sides, size=size, scale=crops.scale, flip=crops.flip)
        return {"image": view_image(image, view, resample=crops.filter)}
    number = _crop_number(name, walk, showing.seed, crops)
    framed = _fixed(image, number, size, crops)
    mirrored = crops.flip and random.random() < 0.5
    return {
        "image": np.ascontiguousarray(framed[:, :, ::-1]) if mirrored else framed,
        "crop": np.array(number),
    }


def _crop_number(name: str, walk: int, seed: int, crops: Crops) -> int:
    """Says which fixed crop an image shows in a walk.

    In as many walks as it has crops every one is shown once, in an order of the image's own.
    """
    count = num_fixed_crops(crops.policy, crops.ratios)
    order = np.random.default_rng(key_seed(seed, "crops", walk // count, name))
    return int(order.permutation(count)[walk % count])


def _fixed(
    image: UInt8[np.ndarray, "H W 3"], number: int, size: int, crops: Crops
) -> UInt8[np.ndarray, "3 S S"]:
    crop = fixed_crop(image, number, policy=crops.policy, ratios=crops.ratios, jpeg=crops.jpeg)
    return frame_image(crop, Frame(size, "centre", crops.filter))


def _positives(root: str, piece: Piece, showing: Showing) -> Iterator[Block]:
    """Shows the partners of a piece's rows through training crops of their own."""
    groups = {
        (shard, group): _rows(root, shard, group)
        for shard, group in {(partner.shard, partner.row_group) for partner in piece.partners}
    }
    for partner in piece.partners:
        row = groups[partner.shard, partner.row_group][partner.row]
        crops = showing.crops or Crops()
        shown = _crop(_decoded(partner.shard, row), row["id"], piece.walk, showing, crops)
        yield {
            "positive": shown["image"],
            "positive_number": np.array(partner.number),
            **({"positive_crop": shown["crop"]} if "crop" in shown else {}),
        }


def _pair(
    image: UInt8[np.ndarray, "H W 3"],
    size: int,
    crops: Crops,
    jitter: JitterConfig,
    key: tuple[int | str, ...],
) -> Block:
    """Makes two differently coloured views of a square and says how they are to be cropped."""
    random = np.random.default_rng(key_seed(*key))
    side, row, column, mirror = random.random(4)
    least = crops.scale**0.5
    base = frame_image(image, Frame(2 * size)).transpose(1, 2, 0)
    first, second = (adjust(base, draw_recolouring(random, jitter)) for _ in range(2))
    whole = (0.0, 0.0, 2.0 * size, 2.0 * size)
    return {
        "image": view_image(second, View(whole, size)),
        "first": np.ascontiguousarray(first.transpose(2, 0, 1)),
        "geometry": np.array(
            [least + (1 - least) * side, row, column, crops.flip and mirror < 0.5]
        ),
    }


def stream_here(root: str, pieces: Sequence[Piece], showing: Showing) -> Iterator[Block]:
    """Reads pieces in this process, one after the other."""
    return (read_piece(root, piece, showing) for piece in pieces)
