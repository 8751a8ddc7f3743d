"""`python -m usseg_ray.bench`: how fast this machine decodes, prepares, streams and trains.

Off an image's path: it times three of its steps, the losses of the methods, the CRF and the feature
store. A figure means nothing by itself, so every one is printed beside a reference that was
measured in the same run: Pillow for decoding, decoding alone for preparing, reading in one process
for streaming, all on the same generated files; for a loss a matrix product, or the official form of
it; for the CRF the code that the field uses; and for stored features a copy from memory.
"""

import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import ray
import simplejpeg
import typer
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Table

from usseg_ray.bench_crf import bench_crf, crf_table
from usseg_ray.bench_eval import evaluation_bars
from usseg_ray.bench_features import bench_features
from usseg_ray.bench_meter import Bar, Measure
from usseg_ray.bench_methods import method_bars
from usseg_ray.bench_works import Sizes
from usseg_ray.cli import Version, console, errors, make_app, run
from usseg_ray.cluster import local_ray
from usseg_ray.config import DataConfig, UserError
from usseg_ray.data.decode import decode_image
from usseg_ray.data.pipeline import RayStream, quiet, reading_group
from usseg_ray.data.plans import Piece, training_plan
from usseg_ray.data.reading import Crops, Showing, Stream, stream_here
from usseg_ray.data.shards import (
    ROWS_PER_SHARD,
    Manifest,
    Row,
    save_manifest,
    split_totals,
    write_split,
)
from usseg_ray.data.transforms import Frame
from usseg_ray.preparation import prepare

HEIGHT, WIDTH = 360, 480
BAR_PER_CORE = 150.0
"""Images per second and core that preparing shall reach: 300 on two cores."""

_GRAIN = 40
_ROUNDS = 3
_DECODE_FILES = 200
_STREAM_ROWS = 2048
_MIN_SHARDS = 40
_MIN_BLOCKS = 5

app = make_app()


def make_jpegs(count: int, seed: int = 0) -> Iterator[bytes]:
    """Generates distinct photograph-like JPEG files, in order.

    Args:
        count: How many.
        seed: Keys the pictures.

    Yields:
        A file of 480x360 pixels: smooth colour under sensor-like noise, quality 90, 4:2:0.
    """
    noise = np.random.default_rng(seed).normal(0, 9, (2 * HEIGHT, 2 * WIDTH, 1)).astype(np.int16)

    def encode(index: int) -> bytes:
        rng = np.random.default_rng([seed, index])
        grain = rng.integers(0, 256, (HEIGHT // _GRAIN, WIDTH // _GRAIN, 3), np.uint8)
        smooth = Image.fromarray(grain).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        top, left = rng.integers(0, (HEIGHT, WIDTH)).tolist()
        pixels = np.asarray(smooth) + noise[top : top + HEIGHT, left : left + WIDTH]
        picture = np.clip(pixels, 0, 255).astype(np.uint8)
        data: bytes = simplejpeg.encode_jpeg(picture, quality=90, colorsubsampling="420")
        return data

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # In portions: mapping all at once would hold every file in memory.
        for start in range(0, count, 1024):
            yield from pool.map(encode, range(start, min(start + 1024, count)))


def bench_decode(images: int) -> list[Measure]:
    """Times decoding on one core against Pillow.

    Args:
        images: Files at hand; at most 200 are used.

    Returns:
        Images per second.
    """
    files = list(make_jpegs(min(images, _DECODE_FILES)))
    ours, pillow = _rates(files, decode_image, _decode_by_pillow)
    return [Measure("decode", "1 core", ours, "images/s", "Pillow, 1 core", pillow)]


def bench_prepare(images: int) -> list[Measure]:
    """Times `prepare` from its first fifth to its last tenth, without Ray's start.

    Args:
        images: Files to prepare.

    Returns:
        Images per second against the bar and against decoding alone on as many cores.

    Raises:
        UserError: Too few images to tell.
    """
    with tempfile.TemporaryDirectory(prefix="usseg-bench-") as folder, local_ray():
        source = Path(folder, "photographs")
        source.mkdir()
        some: list[bytes] = []
        for index, data in enumerate(make_jpegs(images)):
            (source / f"{index:06d}.jpg").write_bytes(data)
            if len(some) < _DECODE_FILES:
                some.append(data)
        rows = max(1, min(ROWS_PER_SHARD, images // _MIN_SHARDS))
        rate = prepare(source, Path(folder, "set"), rows_per_shard=rows).images_per_second
        cores = ray.cluster_resources()["CPU"]
    if rate is None:
        raise UserError(f"--images {images}: too few to time preparing; 100 will do.")
    (one_core,) = _rates(some, decode_image)
    here = f"{cores:g} cores"
    return [
        Measure(
            "prepare", here, rate, "images/s", f"decoding alone, {cores:g} cores", one_core * cores
        ),
        Measure("prepare", here, rate, "images/s", "the bar", BAR_PER_CORE * cores),
    ]


def bench_stream(images: int) -> list[Measure]:
    """Times a training epoch through Ray Data against reading in this process.

    Args:
        images: Rows at hand; at most 2048 are used.

    Returns:
        Rows per second after the first block, and seconds until it, with new and with running
        reading processes.

    Raises:
        UserError: Too few images to tell.
    """
    rows = min(images, _STREAM_ROWS)
    with tempfile.TemporaryDirectory(prefix="usseg-bench-") as folder, local_ray(), quiet():
        plan = _write_set(folder, rows)
        cores = int(ray.cluster_resources()["CPU"])
        with reading_group(1.0, cores) as group:
            cold, warm = (_walk(RayStream(group, 1.0), folder, plan) for _ in range(2))
        here = _walk(stream_here, folder, plan)
    reference = "in this process"
    return [
        Measure("stream", f"Ray Data, {cores} cores", warm.rate, "rows/s", reference, here.rate),
        Measure("stream", "first block, cold", cold.latency, "s", reference, here.latency),
        Measure("stream", "first block", warm.latency, "s", reference, here.latency),
    ]


def _rates(files: Sequence[bytes], *decoders: Callable[[bytes], object]) -> list[float]:
    """Takes each decoder's best of a few rounds, since other load can only slow one down."""
    best = [float("inf")] * len(decoders)
    for _ in range(_ROUNDS):
        for index, decode in enumerate(decoders):
            start = time.perf_counter()
            for data in files:
                decode(data)
            best[index] = min(best[index], time.perf_counter() - start)
    return [len(files) / seconds for seconds in best]


def _decode_by_pillow(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def _write_set(folder: str, rows: int) -> list[Piece]:
    """Writes a prepared set and plans one training epoch of it."""
    images = (Row(f"{i:06d}", d, None, HEIGHT, WIDTH) for i, d in enumerate(make_jpegs(rows)))
    shards = tuple(write_split(folder, "train", images))
    manifest = Manifest(
        name="bench",
        classes=(),
        ignore_index=255,
        splits=split_totals(shards),
        shards=shards,
        source="usseg_ray.bench",
    )
    save_manifest(manifest, folder)
    return training_plan(manifest, "train", seed=0, epoch=0, rows=rows, rank=0, world=1)


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
        raise UserError(f"--images {rows}: too few to time a stream; 1000 will do.")
    (start, _), (first, _), (end, _) = marks[0], marks[1], marks[-1]
    return _Walk(first - start, sum(rows for _, rows in marks[2:]) / (end - first))


BENCHMARKS: dict[str, Callable[[int], list[Measure]]] = {
    "decode": bench_decode,
    "prepare": bench_prepare,
    "stream": bench_stream,
}


@app.command()
def main(
    what: Annotated[
        Literal["decode", "prepare", "stream", "methods", "eval", "crf", "features", "all"],
        typer.Argument(help="What to measure; all is decode, prepare and stream."),
    ] = "all",
    images: Annotated[
        int,
        typer.Option(
            min=1,
            help=f"Images to prepare; decode uses at most {_DECODE_FILES} of them, stream at most "
            f"{_STREAM_ROWS}.",
        ),
    ] = 10_000,
    full: Annotated[
        bool,
        typer.Option("--full", help="With methods: HP at 64 images and CAUSE's full bank as well."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Measure this machine: generated 480x360 JPEG files, losses, evaluation, the CRF, features.

    Every figure stands beside a reference measured in the same run. Files go to a temporary
    folder (about 140 kB an image while preparing) and are removed at the end. The losses take some
    minutes and 6 GB. Losses and evaluation end with exit code 1 if one of them misses its bar.
    """
    if full and what != "methods":
        raise UserError(f"--full belongs to methods, not to {what}: bench methods --full.")
    if what == "methods":
        losses = method_bars(Sizes(), full=full)
        _held("methods", losses, "Forward and backward", {"full": full}, as_json=as_json)
        return
    if what == "eval":
        _held("eval", evaluation_bars(), "Scoring", {}, as_json=as_json)
        return
    if what == "crf":
        _crf(as_json=as_json)
        return
    if what == "features":
        _features(as_json=as_json)
        return
    measures: list[Measure] = []
    for name, benchmark in BENCHMARKS.items():
        if what in (name, "all"):
            with errors.status(f"{name} ..."):
                measures += benchmark(images)
    if as_json:
        _print_json({"images": images}, measures)
    else:
        console.print(_table(measures, f"Generated {WIDTH}x{HEIGHT} JPEG files"))


def _held(
    name: str, measured: Iterator[Bar], what: str, settings: dict[str, object], *, as_json: bool
) -> None:
    """Shows figures that are held to bars, and ends with code 1 if one is missed."""
    bars: list[Bar] = []
    with errors.status(f"{name} ...") as status:
        for bar in measured:
            bars.append(bar)
            status.update(f"{name}, after {bar.what} ...")
    if as_json:
        _print_json(settings, bars)
    else:
        console.print(_bar_table(bars, f"{what}, float32, two CPU threads"))
    if not all(bar.passed for bar in bars):
        raise typer.Exit(1)


def _crf(*, as_json: bool) -> None:
    with errors.status("crf ..."):
        figures = bench_crf()
    if as_json:
        typer.echo(json.dumps(asdict(figures), indent=1))
    else:
        console.print(crf_table(figures))


def _features(*, as_json: bool) -> None:
    with errors.status("features ..."):
        measures = bench_features()
    if as_json:
        _print_json({}, measures)
    else:
        console.print(_table(measures, "Stored features, page cache warm"))


def _print_json(settings: dict[str, object], measures: Sequence[Measure]) -> None:
    rows = [asdict(measure) | {"ratio": measure.ratio} for measure in measures]
    typer.echo(json.dumps(settings | {"measures": rows}, indent=1))


def _table(measures: list[Measure], title: str) -> Table:
    table = Table("benchmark", "what", title=title)
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("reference")
    table.add_column("its figure", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right")
    for m in measures:
        digits = 2 if m.unit == "s" else 0
        figures = [f"{value:.{digits}f} {m.unit}" for value in (m.value, m.reference_value)]
        table.add_row(m.benchmark, m.what, figures[0], m.reference, figures[1], f"{m.ratio:.2f}")
    return table


def _bar_table(bars: list[Bar], title: str) -> Table:
    table = Table("what, and what it stands beside", box=SIMPLE_HEAD, padding=(0, 1))
    table.title = title
    for column in ("figure", "ratio", "bar"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for bar in bars:
        # Of bars below 1, "25x less" says more than 0.04.
        less = bar.ratio < 1 if bar.limit is None else bar.limit < 1
        ratio, limit = (_times(value, less=less) for value in (bar.ratio, bar.limit))
        verdict = "" if bar.limit is None else "met" if bar.passed else "[bold red]missed[/]"
        table.add_row(bar.what, f"{bar.value:.3g} {bar.unit}", ratio, limit, verdict)
        table.add_row(f"  [dim]{bar.reference}[/]", f"[dim]{bar.reference_value:.3g} {bar.unit}[/]")
    return table


def _times(ratio: float | None, *, less: bool) -> str:
    if ratio is None:
        return ""
    return f"{1 / ratio:.3g}x less" if less else f"{ratio:.3g}x"


if __name__ == "__main__":
    run(app)
