"""What a worker does with images: reads, segments, writes, and notes what it wrote.

One is an actor's whole state, or runs in a plain process. Files are decoded ahead and encoded
behind in threads, so that the model never waits for them; the libraries that do it let go of
Python's lock.
"""

import io
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
import torch
from pyarrow import fs as pafs

from usseg_ray.core.config import Settings
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import copy_here, resolve
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import check_aspect
from usseg_ray.data.raster import Raster, is_turned, opened_raster
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.outputs.base import About, Record, Sink, Strip
from usseg_ray.outputs.formats import FORMATS
from usseg_ray.outputs.manifest import Folder
from usseg_ray.outputs.pixels import (
    RASTER_SUFFIXES,
    DecodedPixels,
    RasterPixels,
    decoded,
    georeference_of,
)
from usseg_ray.outputs.places import ImageFile, read_bytes
from usseg_ray.outputs.tiles import Tiling, leave_out, narrow, segment_tiles
from usseg_ray.scoring.protocols import PLAIN, Refinement

_AHEAD = 4
"""Images that are decoded before it is their turn, and that are encoded behind."""

_GEO = ("geotiff", "geojson", "geopackage", "confidence")


@dataclass(frozen=True)
class Order:
    """What is to be done with every image.

    Attributes:
        model: Folder of the model.
        images: Folder or URI of the images.
        out: Folder or URI of the outputs.
        formats: Names of formats.
        tiling: How images are cut; seen whole if unset.
        rasters: Whether rasterio is there, so that places on the earth are read.
        refinement: What is made of the scores before a mask is.
        anyup: File of AnyUp's weights, as the driver's environment names it.
    """

    model: str
    images: str
    out: str
    formats: tuple[str, ...]
    tiling: Tiling | None
    rasters: bool
    refinement: Refinement = PLAIN
    anyup: str = ""


class ImageOutcome(Settings):
    """What became of an image.

    Attributes:
        name: Of the image.
        reason: Why there is nothing of it; empty where all is.
    """

    name: str
    reason: str = ""


@dataclass(frozen=True)
class _Read:
    """An image that was read, and where it lies; of a raster, its file here."""

    found: ImageFile
    pixels: DecodedPixels | None


class Worker:
    """Segments images and writes what was ordered.

    Args:
        order: What is to be done.
        device: Where to compute.
        threads: Of the arithmetic on a CPU.
    """

    def __init__(self, order: Order, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._order = order
        self._segmenter = Segmenter.open(
            Path(order.model), torch.device(device), order.refinement, order.anyup
        )
        self._sight = self._segmenter.description.preprocessing.sight
        self._filesystem, _ = resolve(order.images)
        self._folder = Folder(order.out)
        self._readers, self._writers = ThreadPoolExecutor(2), ThreadPoolExecutor(2)

    def __call__(self, images: Iterable[ImageFile]) -> list[ImageOutcome]:
        """Does what was ordered with some images, and notes those that were written.

        Raises:
            UserError: The outputs cannot be written.
        """
        try:
            return self._done(images)
        except OSError as error:
            raise UserError(
                f"--out {self._order.out}: cannot be written ({error}). Free or choose another "
                "place; the same command goes on where it was."
            ) from None

    def _done(self, images: Iterable[ImageFile]) -> list[ImageOutcome]:
        outcomes, records = list[ImageOutcome](), list[Record]()
        for name, written in self._written(iter(images)):
            try:
                records.append(written.result())
                outcomes.append(ImageOutcome(name=name))
            except UndecodableError as error:
                outcomes.append(ImageOutcome(name=name, reason=str(error)))
        if records:
            self._folder.note(records)
        return outcomes

    def _written(self, images: Iterator[ImageFile]) -> Iterator[tuple[str, Future[Record]]]:
        """Begins to read a few images ahead, and leaves a few to be written behind."""
        reading = deque[tuple[ImageFile, Future[_Read]]]()
        writing = deque[tuple[str, Future[Record]]]()
        while True:
            while len(reading) < _AHEAD and (found := next(images, None)) is not None:
                reading.append((found, self._readers.submit(self._read, found)))
            if not reading:
                break
            found, read = reading.popleft()
            writing.append((found.name, self._segmented(read)))
            if len(writing) > _AHEAD:
                yield writing.popleft()
        yield from writing

    def _segmented(self, read: Future[_Read]) -> Future[Record]:
        try:
            image = read.result()
            if image.pixels is None:
                return _finished(self._by_window(image.found))
            about, strips = self._about(image.found, image.pixels), self._strips(image.pixels)
            return self._writers.submit(self._write, image.found, about, list(strips))
        except UndecodableError as error:
            return _failed(error)

    def _read(self, found: ImageFile) -> _Read:
        """Reads and decodes a file, unless it is one that is read by window."""
        raster = PurePosixPath(found.name).suffix.lower() in RASTER_SUFFIXES and self._order.rasters
        if raster and self._order.tiling is not None:
            return _Read(found, None)
        data = read_bytes(self._filesystem, found)
        pixels = decoded(data, self._sight)
        if self._order.tiling is None:
            check_aspect(pixels.height, pixels.width)
        if raster and not is_turned(io.BytesIO(data)):
            self._look_up(found, data, pixels)
        return _Read(found, pixels)

    def _look_up(self, found: ImageFile, data: bytes, pixels: DecodedPixels) -> None:
        """Finds where a raster lies, and where it holds nothing."""
        local = isinstance(self._filesystem, pafs.LocalFileSystem)
        try:
            with opened_raster(Path(found.path) if local else data) as dataset:
                pixels.georeference = georeference_of(dataset)
                pixels.void = Raster(dataset).absent(0, pixels.height)
        except UndecodableError:  # Pillow reads what GDAL does not
            if set(self._order.formats) & set(_GEO):
                raise

    def _by_window(self, found: ImageFile) -> Record:
        with ExitStack() as held:
            path = held.enter_context(self._here(found))
            with path.open("rb") as stream:
                turned = is_turned(stream)
            pixels = (
                decoded(path.read_bytes(), self._sight)
                if turned
                else RasterPixels(held.enter_context(opened_raster(path)), self._sight)
            )
            return self._write(found, self._about(found, pixels), self._strips(pixels))

    @contextmanager
    def _here(self, found: ImageFile) -> Iterator[Path]:
        """Gives a file a path on this machine."""
        if isinstance(self._filesystem, pafs.LocalFileSystem):
            yield Path(found.path)
            return
        with tempfile.TemporaryDirectory() as folder:
            copy_here(self._filesystem, found.path, Path(folder, "raster.tif"))
            yield Path(folder, "raster.tif")

    def _about(self, found: ImageFile, pixels: DecodedPixels | RasterPixels) -> About:
        height, width = pixels.height, pixels.width
        for name in self._order.formats:
            most = FORMATS[name].most_pixels
            if most is not None and height * width > most:
                raise UndecodableError(
                    f"{width}x{height} is above the {most // 2**20} megapixels that {name} holds"
                )
        names, place = self._segmenter.names, pixels.georeference
        return About(found.name, found.key, height, width, names, place)

    def _strips(self, pixels: DecodedPixels | RasterPixels) -> Iterator[Strip]:
        tiling = self._order.tiling
        if tiling is not None:
            yield from segment_tiles(self._segmenter, pixels, tiling)
            return
        image = pixels.read(0, 0, pixels.height, pixels.width)
        found = self._segmenter.segment(image)
        segments = self._segmenter.segments(image) if "segments" in self._order.formats else None
        mask, confidence = narrow(found.mask, found.names.ignored), found.confidence.copy()
        leave_out(pixels.absent(0, pixels.height), mask, confidence, found.names.ignored)
        yield Strip(mask, confidence, image, segments)

    def _write(self, found: ImageFile, about: About, strips: Iterable[Strip]) -> Record:
        """Writes the files of an image and counts its outputs."""
        tally, files = OutputCounts(about), {}
        with ExitStack() as held:
            sinks = self._sinks(about, held)
            for strip in strips:
                tally.add(strip)
                for sink in sinks.values():
                    sink.write(strip)
            for name, sink in sinks.items():
                path = output_path(name, about)
                with sink.finish() as stream:
                    self._folder.write(path, _Copy(stream))
                files[name] = path
        return tally.record(found, files)

    def _sinks(self, about: About, held: ExitStack) -> dict[str, Sink]:
        sinks = dict[str, Sink]()
        for name in self._order.formats:
            kind = FORMATS[name].sink
            if kind is not None:
                sinks[name] = kind(about)
                held.callback(sinks[name].close)
        return sinks


class _Copy:
    """Copies a stream into another, as `core.files.Content`."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def __call__(self, target: BinaryIO) -> None:
        shutil.copyfileobj(self._source, target, 2**20)


class OutputCounts:
    """Counts an image's outputs.

    Args:
        about: The image.
    """

    def __init__(self, about: About) -> None:
        self._about = about
        size = about.names.ignored + 1
        self._pixels, self._sums = np.zeros(size, np.int64), np.zeros(size)

    def add(self, strip: Strip) -> None:
        """Counts some rows."""
        flat, size = strip.mask.ravel(), len(self._pixels)
        self._pixels += np.bincount(flat, minlength=size)
        self._sums += np.bincount(flat, strip.confidence.ravel(), minlength=size)

    def record(self, found: ImageFile, files: dict[str, str]) -> Record:
        """Says what was counted; ignored pixels are left out."""
        outputs = [value for value in self._about.names.outputs if self._pixels[value]]
        return Record(
            name=found.name,
            key=found.key,
            stamp=found.stamp,
            height=self._about.height,
            width=self._about.width,
            pixels={value: int(self._pixels[value]) for value in outputs},
            confidence={
                value: round(float(self._sums[value] / self._pixels[value]), 6) for value in outputs
            },
            files=files,
        )


def output_path(name: str, about: About) -> str:
    """Says where a format's file of an image lies, below the folder of the outputs."""
    form = FORMATS[name]
    return f"{form.folder}/{about.key}{form.suffix(about)}"


def _finished(record: Record) -> Future[Record]:
    future = Future[Record]()
    future.set_result(record)
    return future


def _failed(error: Exception) -> Future[Record]:
    future = Future[Record]()
    future.set_exception(error)
    return future
