"""A raster that no memory should hold: through the command, with all its processes measured."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
from rasterio.windows import Window

from tests.unit.models.conftest import kept
from usseg_ray.core.machine import tree_bytes
from usseg_ray.models.description import read_description

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.lengthy]

SIDE, CELL = 12_000, 400
LIMIT = 3 * 2**30
PLACE = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)


def cells() -> np.ndarray:
    count = SIDE // CELL
    return np.random.default_rng(0).integers(0, 3, (count, count))


def write(path: Path) -> None:
    """Draws squares of three colours of 12 bits, with noise."""
    random, classes = np.random.default_rng(1), cells()
    shape = {"count": 3, "height": SIDE, "width": SIDE, "dtype": "uint16"}
    place = {"crs": "EPSG:32633", "transform": PLACE}
    blocks = {"tiled": True, "blockxsize": 512, "blockysize": 512}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **blocks) as dataset:
        for top in range(0, SIDE, CELL):
            row = classes[top // CELL].repeat(CELL)
            rows = 2400 * np.eye(3)[row] + random.integers(0, 600, (CELL, SIDE, 3))
            bands = np.moveaxis(rows, -1, 0).astype(np.uint16)
            dataset.write(bands, window=Window(0, top, SIDE, CELL))


def peak_of(program: list[str]) -> int:
    """Runs a command and says how much memory it and its processes took at most."""
    running, peak = subprocess.Popen(program), 0
    while running.poll() is None:
        peak = max(peak, tree_bytes(psutil.Process(running.pid)))
        try:
            running.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
    assert running.returncode == 0
    return peak


def test_a_large_raster_takes_little_memory_and_keeps_its_place(tmp_path: Path) -> None:
    model, out = kept(tmp_path / "kept", "kmeans"), tmp_path / "out"
    (tmp_path / "images").mkdir()
    write(tmp_path / "images" / "scene.tif")
    places = ["--model", model, "--images", tmp_path / "images", "--out", out]
    options = ["--tile", "1024", "--save", "png,confidence,geotiff,parquet"]
    peak = peak_of([sys.executable, "-m", "usseg_ray.predict", *map(str, places), *options])
    print(f"{peak / 2**30:.2f} GiB at most")
    assert peak < LIMIT
    with rasterio.open(out / "geotiff" / "scene.tif") as dataset:
        assert dataset.crs.to_epsg() == 32633
        assert dataset.transform == PLACE
        assert (dataset.height, dataset.width) == (SIDE, SIDE)
        names = read_description(model).names
        colours = dataset.colormap(1)
        assert all(
            colours[value][:3] == tuple(names.palette[value].tolist()) for value in names.outputs
        )
        middles = np.stack(
            [
                dataset.read(1, window=Window(CELL // 2, top, SIDE, 1))[0, ::CELL]
                for top in range(CELL // 2, SIDE, CELL)
            ]
        )
    # A cell's colour decides its cluster: whichever it is, most cells of a colour have it.
    shown = [np.bincount(middles[cells()[:, : middles.shape[1]] == c]).max() for c in range(3)]
    assert sum(shown) > 0.6 * middles.size
