import json
from pathlib import Path

import numpy as np
import pyogrio
import pytest
from rasterio import features
from rasterio.warp import transform

from tests.outputs import IGNORED, UTM, about, mask_of, strips, written
from usseg_ray.outputs.base import Georeference
from usseg_ray.outputs.geojson import FORMAT, LAYER, PACKAGE


def drawn_again(shapes: list[tuple[dict[str, object], int]], mask: np.ndarray) -> np.ndarray:
    return np.asarray(features.rasterize(shapes, mask.shape, fill=IGNORED, dtype=np.uint8))


def test_polygons_of_a_photograph_are_its_pixels() -> None:
    mask = mask_of()
    tree = json.loads(written(FORMAT, about(mask), strips(mask, 11)))
    shapes = [
        (feature["geometry"], feature["properties"]["cluster"]) for feature in tree["features"]
    ]
    assert np.array_equal(drawn_again(shapes, mask), mask)
    assert {feature["properties"]["classification"]["name"] for feature in tree["features"]} == {
        "road: old",
        "sky (1)",
        "sky (2)",
        "shadow",
    }


def test_gdal_reads_longitude_and_latitude(tmp_path: Path) -> None:
    mask = mask_of()
    (tmp_path / "x.geojson").write_bytes(written(FORMAT, about(mask, place=UTM), strips(mask)))
    about_it = pyogrio.read_info(tmp_path / "x.geojson")
    assert about_it["crs"] == "EPSG:4326"
    left, _, _, top = pyogrio.read_bounds(tmp_path / "x.geojson")[1].T[0]
    (east,), (north,) = transform("EPSG:32633", "EPSG:4326", [500_000.0], [5_000_000.0 - 20])
    bounds = about_it["total_bounds"]
    assert (bounds[0], bounds[3]) == pytest.approx((east, north), abs=1e-5)
    assert left >= bounds[0] - 1e-9
    assert top <= bounds[3] + 1e-9


@pytest.mark.parametrize("place", [None, UTM])
def test_pyogrio_reads_the_geopackage(tmp_path: Path, place: Georeference | None) -> None:
    mask = mask_of()
    (tmp_path / "x.gpkg").write_bytes(written(PACKAGE, about(mask, place=place), strips(mask)))
    meta, table = pyogrio.read_arrow(tmp_path / "x.gpkg", layer=LAYER)
    assert (meta["crs"] or "").endswith("32633") == (place is not None)
    assert set(table["name"].to_pylist()) == {"road: old", "sky (1)", "sky (2)", "shadow"}
    area = pyogrio.read_arrow(
        tmp_path / "x.gpkg",
        sql=f"SELECT cluster, SUM(ST_Area(geom)) AS area FROM {LAYER} GROUP BY cluster",
        sql_dialect="SQLITE",
    )[1].to_pylist()
    pixel = 100 if place else 1
    assert {row["cluster"]: row["area"] / pixel for row in area} == {
        output: (mask == output).sum() for output in (0, 1, 2, 3)
    }
