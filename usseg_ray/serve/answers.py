"""What becomes of a segmentation: a label map as PNG, or what there is to say of it as JSON."""

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from usseg_ray.models.names import Names
from usseg_ray.outputs.base import About, Mask, Strip
from usseg_ray.outputs.png import PngSink

Form = Literal["png", "json"]

MEDIA_TYPES: dict[Form, str] = {"png": "image/png", "json": "application/json"}


@dataclass(frozen=True)
class Wish:
    """What is wanted of an image.

    Attributes:
        form: A label map, or JSON.
        maps: With JSON, the longest side of the maps in it, pixels; none if unset.
    """

    form: Form = "png"
    maps: int | None = None


def encoded(strip: Strip, names: Names, wish: Wish) -> bytes:
    """Writes what is wanted of an image.

    Args:
        strip: The whole image.
        names: What outputs are called.
        wish: What is wanted.
    """
    if wish.form == "png":
        return label_map_png(strip, names)
    tree = summary(strip.mask, strip.confidence, names)
    if wish.maps is not None:
        tree["maps"] = maps(strip.mask, strip.confidence, wish.maps)
    return json.dumps(tree, ensure_ascii=False).encode()


def label_map_png(strip: Strip, names: Names) -> bytes:
    """Writes a label map as `predict` does: indices with the colours of the names."""
    height, width = strip.mask.shape
    sink = PngSink(About("", "", height, width, names))
    sink.write(strip)
    with sink.finish() as stream:
        return stream.read()


def summary(mask: Mask, confidence: Float32[np.ndarray, "H W"], names: Names) -> dict[str, Any]:
    """Says which outputs an image has.

    Args:
        mask: (H, W) outputs of pixels.
        confidence: (H, W), in [0, 1].
        names: What outputs are called.

    Returns:
        `width` and `height` in pixels; `segments`, the largest first, each with its `id` in label
        maps, `name`, `colour`, `share` of the image and mean `confidence`; `ignored`, the share
        that has no segment; `confidence`, the mean of all pixels.
    """
    size = names.ignored + 1
    pixels = np.bincount(mask.ravel(), minlength=size)
    sums = np.bincount(mask.ravel(), confidence.ravel(), minlength=size)
    segments = [
        {
            "id": value,
            "name": names.clusters[value].name,
            "colour": names.clusters[value].colour,
            "share": round(float(pixels[value] / mask.size), 6),
            "confidence": round(float(sums[value] / pixels[value]), 6),
        }
        for value in sorted(names.outputs, key=lambda value: -pixels[value])
        if pixels[value]
    ]
    return {
        "width": mask.shape[1],
        "height": mask.shape[0],
        "segments": segments,
        "ignored": round(float(pixels[names.ignored] / mask.size), 6),
        "confidence": round(float(confidence.mean(dtype=np.float64)), 6),
    }


def maps(mask: Mask, confidence: Float32[np.ndarray, "H W"], longest: int) -> dict[str, Any]:
    """Packs what every pixel is, of an image made smaller by leaving pixels out.

    Args:
        mask: (H, W) outputs of pixels.
        confidence: (H, W), in [0, 1].
        longest: Of its sides, pixels.

    Returns:
        `width` and `height`; `labels`, two bytes a pixel with the lower first, and `confidence`, a
        byte a pixel with 255 for 1: rows from the top down, packed by zlib, in base64.
    """
    rows, columns = (_kept(length, max(mask.shape), longest) for length in mask.shape)
    small = np.ix_(rows, columns)
    percent: UInt8[np.ndarray, "h w"] = (255 * confidence[small]).round().astype(np.uint8)
    return {
        "width": len(columns),
        "height": len(rows),
        "labels": _packed(mask[small].astype("<u2")),
        "confidence": _packed(percent),
    }


def _kept(length: int, longer: int, longest: int) -> np.ndarray:
    """Chooses the rows, or columns, at the centres of as many equal parts."""
    count = max(1, round(length * min(1.0, longest / longer)))
    return np.floor((np.arange(count) + 0.5) * length / count).astype(int)


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(array.tobytes(), 1)).decode()


def cluster_list(names: Names) -> list[dict[str, Any]]:
    """Lists a model's clusters as `names.yaml` has them, each with its number."""
    return [{"id": cluster, **about} for cluster, about in names.tree().items()]
