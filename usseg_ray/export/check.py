"""What is written as ONNX beside what it was written from: the same scores, and how quickly."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line
from usseg_ray.core.sources import walk
from usseg_ray.core.views import Frame
from usseg_ray.data import synthetic
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.numbers import decode_seen
from usseg_ray.data.transforms import frame_image
from usseg_ray.export.graph import INPUT, OUTPUT, WAY_ON, TileGraph, require
from usseg_ray.models.description import Preprocessing

RUNTIME = ("onnxruntime",)

_MOST_TILES = 8

_ROUNDS = 3

_LARGEST = 0.01
"""Difference of a probability that is not rounding any more."""

Tile = UInt8[np.ndarray, "S S 3"]


@dataclass(frozen=True)
class Comparison:
    """How onnxruntime did beside torch, on a CPU.

    Attributes:
        tiles: How many were looked at.
        source: What they were made of.
        difference: The largest of a probability.
        speed: Tiles a second, over those of torch; each in as many threads, one tile at a time.
    """

    tiles: int
    source: str
    difference: float
    speed: float


def compare_with_torch(
    content: bytes, graph: TileGraph, tiles: Sequence[Tile], source: str
) -> Comparison:
    """Runs a file of ONNX beside the graph that it was written from.

    Args:
        content: The file.
        graph: In torch.
        tiles: At least one.
        source: What they are made of.

    Raises:
        UserError: onnxruntime is missing or refuses the file, or finds something else.
    """
    require(RUNTIME)
    here, there = _of_torch(graph), _of_onnx(content)
    differences: list[float] = []
    seconds: tuple[list[float], list[float]] = ([], [])
    for tile in [tiles[0], *_ROUNDS * list(tiles)]:
        found = []
        for run, taken in zip((here, there), seconds, strict=True):
            begun = time.perf_counter()
            found.append(run(tile))
            taken.append(time.perf_counter() - begun)
        differences.append(float(np.abs(found[0] - found[1]).max()))
    # The first run of each warms up.
    speed = median(seconds[0][1:]) / median(seconds[1][1:])
    if not max(differences) < _LARGEST:
        raise UserError(
            f"onnxruntime's probabilities differ by {max(differences):.2g} from torch's on "
            f"{source}: this graph is not the model. {WAY_ON}"
        )
    return Comparison(len(tiles), source, max(differences), speed)


def tiles_of(images: Path | None, shown: Preprocessing) -> tuple[list[Tile], str]:
    """Makes tiles of some images, or of scenes that are drawn.

    Args:
        images: A file or a folder; of many, some from all over it.
        shown: How the model sees images.

    Returns:
        The centre square of each, and what they are made of.

    Raises:
        UserError: There is no image.
    """
    if images is None:
        scenes = [synthetic.scene(0, "val", number)[0] for number in range(_MOST_TILES)]
        return [_tile(scene, shown) for scene in scenes], f"{_MOST_TILES} scenes of synthetic"
    paths = sorted(walk(images)) if images.is_dir() else [images]
    found: list[Tile] = []
    for path in paths[:: max(1, len(paths) // _MOST_TILES)]:
        try:
            found.append(_tile(decode_seen(path.read_bytes(), shown.sight), shown))
        except (UndecodableError, OSError):
            continue
    if not found:
        raise UserError(f"--images {images}: no image that can be read.")
    count = "1 image" if len(found) == 1 else f"{len(found)} images"
    return found, f"{count} of {images}"


def _tile(image: UInt8[np.ndarray, "H W 3"], shown: Preprocessing) -> Tile:
    framed = frame_image(image, Frame(shown.size, "centre", shown.filter))
    return np.ascontiguousarray(framed.transpose(1, 2, 0))


Scores = Float32[np.ndarray, "1 K S S"]


def _of_torch(graph: TileGraph) -> Callable[[Tile], Scores]:
    def run(tile: Tile) -> Scores:
        with torch.no_grad():
            scores: Scores = graph(torch.from_numpy(tile[None])).numpy()
        return scores

    return run


def _of_onnx(content: bytes) -> Callable[[Tile], Scores]:
    # Seconds, for those that ask for it.
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session: Any = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # noqa: BLE001 (onnxruntime's have no base of their own)
        raise UserError(f"onnxruntime refuses the graph: {first_line(error)[:160]}.") from None

    def run(tile: Tile) -> Scores:
        scores: Scores = session.run([OUTPUT], {INPUT: tile[None]})[0]
        return scores

    return run
