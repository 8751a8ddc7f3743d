"""How fast images are decoded, prepared and streamed, beside what one core decodes.

Off an image's path: it times three of its steps on generated files, and the plans before them.
Decoding stands beside Pillow, preparing beside decoding alone on as many cores, and streaming
beside reading in one process.
"""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import ray
from PIL import Image

from usseg_ray.bench.inputs import HEIGHT, WIDTH, make_jpegs, scratch, write_generated_set
from usseg_ray.bench.meter import Measure, least_seconds
from usseg_ray.cluster.join import local_ray
from usseg_ray.cluster.ray_stream import RayStream, reading_group
from usseg_ray.core.config import DataConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Crops, Frame
from usseg_ray.data.decode import decode_image
from usseg_ray.data.manifest import Manifest, ShardInfo, split_totals
from usseg_ray.data.plans import Piece, WithPartners, dealt_plan, training_plan
from usseg_ray.data.reading import Showing, Stream, stream_here
from usseg_ray.data.shards import ROWS_PER_GROUP, ROWS_PER_SHARD
from usseg_ray.prepare.write import prepare

BAR_PER_CORE = 150.0
"""Images per second and core that preparing shall reach: 300 on two cores."""
SIZE = f"{WIDTH}x{HEIGHT} JPEG"

_ROUNDS = 3
_DECODE_FILES = 200
_STREAM_ROWS = 2048
_MIN_SHARDS = 40
_NEIGHBOURS, _DEALT_BATCH = 8, 64
_PLAN_BAR_S, _PARTNER_BAR_S = 3.0, 0.5
_MIN_BLOCKS = 5


def io_bars(images: int) -> Iterator[Measure]:
    """Times decoding, preparing and streaming of generated files.

    Args:
        images: Files to prepare; decoding takes at most 200 of them, streaming at most 2048.

    Yields:
        Images per second, and seconds until the first block of a stream.

    Raises:
        UserError: Too few images to tell.
    """
    files = list(make_jpegs(min(images, _DECODE_FILES)))
    ours, pillow = _rates(files, decode_image, _decode_by_pillow)
    yield Measure("io", f"decode {SIZE}, 1 core", ours, "images/s", "Pillow, 1 core", pillow)
    with local_ray():
        yield from _preparing(images, ours)
        yield from _streaming(min(images, _STREAM_ROWS), ours)


def planning_bars(rows: int) -> Iterator[Measure]:
    """Times the plan of one walk over a split, and how long its first partner takes.

    Args:
        rows: Of the split, which has a manifest alone.
    """
    manifest = _manifest_of(rows)
    deal = partial(
        dealt_plan, manifest, "train", seed=0, walk=0, batch_size=_DEALT_BATCH, rank=0, world=2
    )
    plan = training_plan(manifest, "train", seed=0, epoch=0, rows=rows, rank=0, world=1)
    neighbours = np.zeros((rows, _NEIGHBOURS), np.int32)

    def first_partner() -> Piece:
        return WithPartners(plan, manifest, "train", neighbours, seed=0)[0]

    dealt, partner = least_seconds(deal, first_partner, rounds=1)
    of = f"of {rows:,} rows"
    yield Measure("io", f"plan {of}", dealt, "s", "the bar", _PLAN_BAR_S, 1.0)
    yield Measure("io", f"first partners {of}", partner, "s", "the bar", _PARTNER_BAR_S, 1.0)


def _manifest_of(rows: int) -> Manifest:
    """Describes a split of whole shards."""
    groups = (ROWS_PER_GROUP,) * (ROWS_PER_SHARD // ROWS_PER_GROUP)
    shards = tuple(
        ShardInfo(
            path=f"train/{number}",
            split="train",
            rows=ROWS_PER_SHARD,
            labelled=0,
            num_bytes=1,
            sha256="",
            row_groups=groups,
        )
        for number in range(rows // ROWS_PER_SHARD)
    )
    return Manifest(
        name="bench",
        classes=(),
        ignore_index=0,
        splits=split_totals(shards),
        shards=shards,
        source="usseg_ray.bench",
    )


def _preparing(images: int, one_core: float) -> Iterator[Measure]:
    """Times `prepare` from its first fifth to its last tenth."""
    with scratch() as folder:
        source = folder / "photographs"
        source.mkdir()
        for index, data in enumerate(make_jpegs(images)):
            (source / f"{index:06d}.jpg").write_bytes(data)
        rows = max(1, min(ROWS_PER_SHARD, images // _MIN_SHARDS))
        rate = prepare(source, folder / "set", rows_per_shard=rows).images_per_second
    if rate is None:
        raise UserError(f"{images} images: too few to time preparing; 100 will do.")
    cores = ray.cluster_resources()["CPU"]
    what = f"prepare, {cores:g} cores"
    alone = f"decoding alone, 1 core times {cores:g}"
    yield Measure("io", what, rate, "images/s", alone, one_core * cores)
    yield Measure("io", what, rate, "images/s", "the bar", BAR_PER_CORE * cores, 1.0)


def _streaming(rows: int, one_core: float) -> Iterator[Measure]:
    """Times a training epoch through Ray, with new and with running reading processes."""
    with scratch() as folder:
        manifest = write_generated_set(folder, {"train": rows})
        plan = training_plan(manifest, "train", seed=0, epoch=0, rows=rows, rank=0, world=1)
        cores = int(ray.cluster_resources()["CPU"])
        with reading_group(1.0, cores) as group:
            cold, warm = (_walk(RayStream(group, 1.0), str(folder), plan) for _ in range(2))
        here = _walk(stream_here, str(folder), plan)
    what, alone = f"stream, Ray on {cores} cores", f"decoding alone, 1 core times {cores}"
    reference = "in this process"
    yield Measure("io", what, warm.rate, "rows/s", reference, here.rate)
    yield Measure("io", what, warm.rate, "rows/s", alone, one_core * cores)
    yield Measure("io", "stream, first block, cold", cold.latency, "s", reference, here.latency)
    yield Measure("io", "stream, first block", warm.latency, "s", reference, here.latency)


def _rates(files: Sequence[bytes], *decoders: Callable[[bytes], object]) -> list[float]:
    works = [partial(_decode_all, files, decode) for decode in decoders]
    return [len(files) / seconds for seconds in least_seconds(*works, rounds=_ROUNDS)]


def _decode_all(files: Sequence[bytes], decode: Callable[[bytes], object]) -> None:
    for data in files:
        decode(data)


def _decode_by_pillow(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@dataclass(frozen=True)
class _Walk:
    """Seconds until the first block, and rows per second after it."""

    latency: float
    rate: float


def _walk(stream: Stream, root: str, plan: Sequence[Piece]) -> _Walk:
    crops = DataConfig()
    showing = Showing(Frame(crops.train_size), Crops(scale=crops.crop_scale, flip=crops.flip))
    marks = [(time.perf_counter(), 0)]
    for block in stream(root, plan, showing):
        marks.append((time.perf_counter(), len(block["id"])))
    if len(marks) <= _MIN_BLOCKS:
        rows = sum(rows for _, rows in marks)
        raise UserError(f"{rows} images: too few to time a stream; 1000 will do.")
    (start, _), (first, _), (end, _) = marks[0], marks[1], marks[-1]
    return _Walk(first - start, sum(rows for _, rows in marks[2:]) / (end - first))
