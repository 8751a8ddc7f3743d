from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from usseg_ray.core.config import JitterConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import CropPolicy, Crops, Frame
from usseg_ray.data.decode import decode_image, decode_label
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.plans import Partner, Piece, cut, evaluation_plan, row_groups
from usseg_ray.data.reading import Showing, number_piece, read_piece, stream_here
from usseg_ray.data.shards import Row, write_split
from usseg_ray.data.transforms import fixed_crop, frame_image, frame_label


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root)


def first_piece(manifest: Manifest, split: str = "val") -> Piece:
    return row_groups(manifest, split)[0]


def test_a_piece_is_its_rows_framed(manifest: tuple[str, Manifest]) -> None:
    root, facts = manifest
    (piece,) = cut([first_piece(facts)], 1, 3)
    block = read_piece(root, piece, Showing(Frame(24), labels=True))
    assert block["id"].tolist() == ["val-01", "val-02"]
    for index in (1, 2):
        row, frame = tiny.row("val", index), Frame(24)
        assert row.label is not None
        image = frame_image(decode_image(row.image), frame)
        assert np.array_equal(block["image"][index - 1], image)
        label = frame_label(decode_label(row.label), frame)
        assert np.array_equal(block["label"][index - 1], label)
    assert block["number"].tolist() == [1, 2]


def test_without_labels_wanted_none_come(manifest: tuple[str, Manifest]) -> None:
    root, facts = manifest
    assert read_piece(root, first_piece(facts), Showing(Frame(24))).keys() == {
        "id",
        "image",
        "number",
    }


def test_crops_depend_on_seed_epoch_and_image_alone(manifest: tuple[str, Manifest]) -> None:
    root, facts = manifest
    piece = first_piece(facts)
    showing = Showing(Frame(16), Crops(scale=0.3, flip=True), seed=1)
    whole = read_piece(root, piece, showing)["image"]
    part = read_piece(root, replace(piece, start=2), showing)["image"]
    assert np.array_equal(part, whole[2:])
    for changed in (
        read_piece(root, replace(piece, walk=1), showing),
        read_piece(root, piece, replace(showing, seed=2)),
    ):
        assert not np.array_equal(changed["image"], whole)


@pytest.mark.parametrize("policy", ["five", "ten"])
def test_fixed_crops_take_turns(manifest: tuple[str, Manifest], policy: CropPolicy) -> None:
    root, facts = manifest
    piece, crops = first_piece(facts), Crops(policy, ratios=(0.5,))
    count = {"five": 5, "ten": 10}[policy]
    image = decode_image(tiny.row("val", 0).image)
    expected = {
        frame_image(
            fixed_crop(image, number, policy=policy, ratios=(0.5,), jpeg=None), Frame(16)
        ).tobytes()
        for number in range(count)
    }
    assert len(expected) == count

    def shown(walk: int) -> bytes:
        block = read_piece(root, replace(piece, walk=walk), Showing(Frame(16), crops))
        pixels: np.ndarray = block["image"][0]
        return pixels.tobytes()

    # So many walks show each crop once, and the next ones do so in another order.
    walks = [[shown(turn * count + walk) for walk in range(count)] for turn in range(3)]
    assert all(set(turn) == expected for turn in walks)
    assert len({tuple(turn) for turn in walks}) > 1


def test_whole_frames_keep_their_shapes(tmp_path: Path) -> None:
    sides = [(20, 32), (16, 16), (40, 10)]
    rows = [
        Row(str(i), tiny.png(np.full((*s, 3), i, np.uint8)), tiny.png(np.full(s, i, np.uint8)), *s)
        for i, s in enumerate(sides)
    ]
    (shard,) = write_split(tmp_path, "val", rows)
    whole = Showing(Frame(16, "whole"), labels=True)
    block = read_piece(str(tmp_path), Piece(shard.path, 0, 0, 3), whole)
    assert [image.shape for image in block["image"]] == [(3, 16, 25), (3, 16, 16), (3, 64, 16)]
    assert [label.shape for label in block["label"]] == sides


def mixed_set(root: Path) -> Piece:
    (shard,) = write_split(root, "val", [tiny.row("val", i, labelled=i % 2 == 1) for i in range(4)])
    return Piece(shard.path, 0, 0, 4)


def test_rows_without_a_label_are_left_out_where_labels_are_wanted(tmp_path: Path) -> None:
    piece = mixed_set(tmp_path)
    labelled = read_piece(str(tmp_path), piece, Showing(Frame(16), labels=True))
    assert labelled["id"].tolist() == ["val-01", "val-03"]
    assert labelled["label"].shape == (2, 16, 16)
    assert len(read_piece(str(tmp_path), piece, Showing(Frame(16)))["id"]) == 4


def test_a_piece_without_any_label_is_empty_but_shaped(tmp_path: Path) -> None:
    piece = replace(mixed_set(tmp_path), stop=1)
    block = read_piece(str(tmp_path), piece, Showing(Frame(16), labels=True))
    assert (block["id"].shape, block["image"].shape) == ((0,), (0, 3, 16, 16))
    assert block["label"].shape == (0, 16, 16)
    assert block["label"].dtype == np.int32


@pytest.mark.parametrize("column", ["image", "label"])
def test_damaged_bytes_name_shard_and_image(tmp_path: Path, column: str) -> None:
    changed: dict[str, Any] = {"id": "broken", column: b"\x89PNG\r\n\x1a\nnothing"}
    bad = replace(tiny.row("val", 0), **changed)
    (shard,) = write_split(tmp_path, "val", [tiny.row("val", 1), bad])
    with pytest.raises(UserError) as caught:
        read_piece(str(tmp_path), Piece(shard.path, 0, 0, 2), Showing(Frame(16), labels=True))
    assert shard.path in str(caught.value)
    assert "'broken' does not decode" in str(caught.value)
    assert "--overwrite" in str(caught.value)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.parquet: cannot be read"):
        read_piece(str(tmp_path), Piece("gone.parquet", 0, 0, 2), Showing(Frame(16)))


def test_the_plain_stream_reads_pieces_in_order(manifest: tuple[str, Manifest]) -> None:
    root, facts = manifest
    pieces = evaluation_plan(facts, "train", 1, 2)
    ids = [key for block in stream_here(root, pieces, Showing(Frame(16))) for key in block["id"]]
    assert ids == [f"train-{i:02d}" for i in range(7, 14)]


def test_partners_are_shown_through_crops_of_their_own(manifest: tuple[str, Manifest]) -> None:
    root, facts = manifest
    alone = row_groups(facts, "train")[0]
    partners = tuple(
        Partner(p.shard, p.row_group, 1, p.number + 1) for p in row_groups(facts, "train")[:2] * 2
    )
    showing = Showing(Frame(16), Crops(scale=0.3, flip=True))
    block = read_piece(root, replace(alone, partners=partners[: alone.rows]), showing)
    assert np.array_equal(block["image"], read_piece(root, alone, showing)["image"])
    for index, (shard, group, row, number) in enumerate(partners[: alone.rows]):
        there = read_piece(root, Piece(shard, group, row, row + 1), showing)
        assert np.array_equal(block["positive"][index], there["image"][0])
        assert block["positive_number"][index] == number


@pytest.mark.parametrize("policy", ["centre", "five", "ten"])
def test_rows_can_be_named_without_being_shown(
    manifest: tuple[str, Manifest], policy: CropPolicy
) -> None:
    root, facts = manifest
    partners = tuple(
        Partner(p.shard, p.row_group, 1, p.number + 1) for p in row_groups(facts, "train")[:2] * 2
    )
    (piece,) = cut([replace(row_groups(facts, "train")[1], walk=7)], 1, 4)
    piece = replace(piece, partners=partners[: piece.rows])
    showing = Showing(Frame(16), Crops(policy), seed=3)
    shown, named = (make(root, piece, showing) for make in (read_piece, number_piece))
    assert shown.keys() == named.keys()
    for name in shown.keys() - {"image", "positive"}:
        assert np.array_equal(shown[name], named[name])
    assert named["image"].shape == named["positive"].shape == (piece.rows, 3, 0, 0)


def test_a_pair_is_one_square_in_two_colours(manifest: tuple[str, Manifest]) -> None:
    root, facts = manifest
    piece = first_piece(facts)
    still = JitterConfig(probability=0, grey=0, blur=0)
    showing = Showing(Frame(16), Crops(scale=0.25, flip=True), pair=still)
    block = read_piece(root, piece, showing)
    plain = read_piece(root, piece, Showing(Frame(32)))["image"]
    assert np.array_equal(block["first"], plain)
    assert np.array_equal(block["image"], read_piece(root, piece, Showing(Frame(16)))["image"])
    side, *place, mirror = block["geometry"].T
    assert block["geometry"].dtype == np.float64
    assert ((side >= 0.5) & (side <= 1)).all()
    assert all(((where >= 0) & (where < 1)).all() for where in place)
    assert set(mirror) <= {0.0, 1.0}
    coloured = read_piece(root, piece, replace(showing, pair=JitterConfig()))
    assert np.array_equal(coloured["geometry"], block["geometry"])
    for name in ("first", "image"):
        assert not np.array_equal(coloured[name], block[name])


def test_views_of_a_pair_are_those_of_their_epoch(manifest: tuple[str, Manifest]) -> None:
    root, facts = manifest
    piece = first_piece(facts)
    showing = Showing(Frame(16), Crops(), pair=JitterConfig())
    one, again, other = (
        read_piece(root, replace(piece, walk=epoch), showing) for epoch in (1, 1, 2)
    )
    for name in ("first", "image", "geometry"):
        assert np.array_equal(one[name], again[name])
        assert not np.array_equal(one[name], other[name])
