"""Segments as polygons: GeoJSON for anything that draws, GeoPackage for geographers.

GeoJSON is longitude and latitude (RFC 7946); of an image without a place it is pixels, x to the
right and y down, as QuPath and napari have it. A GeoPackage keeps the image's own coordinate
system.
"""

import io
import json
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from usseg_ray.outputs.base import About, Format, Georeference, Mask, WholeSink, colours, titles

LAYER = "segments"


class GeojsonSink(WholeSink):
    """A collection of features, one a polygon."""

    def encode(self, mask: Mask) -> bytes:
        """Draws polygons round the segments."""
        about, called, shades = self.about, titles(self.about.names), colours(self.about.names)
        features = [
            {
                "type": "Feature",
                "geometry": _on_the_globe(geometry, about.georeference),
                "properties": {
                    "cluster": output,
                    "name": called[output],
                    "classification": {"name": called[output], "color": shades[output]},
                },
            }
            for geometry, output in polygons(mask, about)
        ]
        tree = {"type": "FeatureCollection", "features": features}
        return json.dumps(tree, ensure_ascii=False).encode()


class GeopackageSink(WholeSink):
    """A GeoPackage with one layer."""

    def encode(self, mask: Mask) -> bytes:
        """Draws polygons round the segments."""
        import pyogrio.raw  # noqa: PLC0415 (of the extra `geo`)

        about, called = self.about, titles(self.about.names)
        found = list(polygons(mask, about))
        outputs = np.array([output for _, output in found], np.int32)
        stream = io.BytesIO()
        with warnings.catch_warnings():
            # An image without a place is meant to have none.
            warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
            pyogrio.raw.write(
                stream,
                np.array([well_known(geometry) for geometry, _ in found], object),
                [outputs, np.array([called[output] for output in outputs.tolist()], object)],
                ["cluster", "name"],
                layer=LAYER,
                driver="GPKG",
                geometry_type="Polygon",
                crs=about.georeference.crs or None if about.georeference else None,
            )
        return stream.getvalue()


def polygons(mask: Mask, about: About) -> Iterator[tuple[dict[str, Any], int]]:
    """Draws polygons round the segments of a mask, along the edges of its pixels.

    Yields:
        A GeoJSON geometry in the coordinates of the image's file, and the output.
    """
    from rasterio import Affine, features  # noqa: PLC0415 (of the extra `geo`)

    place = about.georeference
    transform = Affine(*place.transform) if place else Affine.identity()
    shapes = features.shapes(mask, mask != about.names.ignored, 4, transform)
    return ((geometry, int(output)) for geometry, output in shapes)


def _on_the_globe(geometry: dict[str, Any], place: Georeference | None) -> dict[str, Any]:
    if place is None or not place.crs:
        return geometry
    from rasterio.warp import transform_geom  # noqa: PLC0415

    moved: dict[str, Any] = transform_geom(place.crs, "EPSG:4326", geometry)
    return moved


def well_known(geometry: dict[str, Any]) -> bytes:
    """Writes a polygon as well-known binary, little-endian."""
    rings = [np.asarray(ring, "<f8") for ring in geometry["coordinates"]]
    head = b"\x01" + np.array([3, len(rings)], "<u4").tobytes()
    return head + b"".join(np.uint32(len(ring)).tobytes() + ring.tobytes() for ring in rings)


_EXTRA: dict[str, Any] = {"modules": ("rasterio", "pyogrio"), "extra": "geo"}

FORMAT = Format(GeojsonSink, "geojson", lambda _: ".geojson", bytes_per_pixel=0.5, **_EXTRA)

PACKAGE = Format(GeopackageSink, "geopackage", lambda _: ".gpkg", bytes_per_pixel=0.3, **_EXTRA)
