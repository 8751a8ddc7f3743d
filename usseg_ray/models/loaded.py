"""What `usseg_ray.load` returns: a model that takes whatever stands for an image.

In a notebook its results show themselves: the image under its segments, and what these are called.
"""

import base64
import html
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import walk
from usseg_ray.data.containers import UndecodableError, orientation
from usseg_ray.data.decode import guarded, turned
from usseg_ray.data.numbers import decode_seen, seen
from usseg_ray.data.scaling import Sight
from usseg_ray.models.names import Names
from usseg_ray.models.segmenter import Segmentation, Segmenter

ImageLike = np.ndarray | Image.Image
"""(H, W, 3) or (H, W) uint8, or a picture of Pillow's."""

_SHOWN_SIDE = 640

_SHARE_OF_COLOUR = 0.55

_SHOWN_RESULTS = 6


@dataclass(frozen=True, eq=False)
class Result:
    """An image and its segments.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        segmentation: What was found.
        segmenter: What found it.
    """

    image: UInt8[np.ndarray, "H W 3"]
    segmentation: Segmentation
    segmenter: Segmenter = field(repr=False)

    @property
    def mask(self) -> Int64[np.ndarray, "H W"]:
        """The output of every pixel, and `names.ignored` where its cluster is left out."""
        return self.segmentation.mask

    @property
    def confidence(self) -> Float32[np.ndarray, "H W"]:
        """The probability of the cluster that was chosen, in [0, 1]."""
        return self.segmentation.confidence

    @cached_property
    def scores(self) -> Float32[np.ndarray, "K H W"]:
        """The probability of every cluster, computed when it is first asked for."""
        found = self.segmenter.segment(self.image, scores=True).scores
        assert found is not None
        return found

    @property
    def names(self) -> Names:
        """What outputs are called."""
        return self.segmentation.names

    @property
    def shares(self) -> dict[str, float]:
        """Share of the image that each output has, in [0, 1], the largest first."""
        values, counts = np.unique(self.mask, return_counts=True)
        clusters = self.names.clusters
        found = {
            ("ignored" if value == self.names.ignored else clusters[value].name): 0.0
            for value in values.tolist()
        }
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            name = "ignored" if value == self.names.ignored else clusters[value].name
            found[name] += count / self.mask.size
        return dict(sorted(found.items(), key=lambda one: -one[1]))

    def save(self, path: str | Path) -> None:
        """Writes the mask as a PNG with the colours of the names."""
        self.segmentation.save(Path(path))

    def picture(self) -> Image.Image:
        """Draws the segments over the image, as large as a notebook shows it."""
        colours = self.names.palette[np.minimum(self.mask, len(self.names.palette) - 1)]
        mixed = _SHARE_OF_COLOUR * colours + (1 - _SHARE_OF_COLOUR) * self.image
        left_out = self.mask == self.names.ignored
        mixed[left_out] = self.image[left_out]
        drawn = Image.fromarray(mixed.astype(np.uint8))
        drawn.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
        return drawn

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.picture().save(stream, "PNG")
        return stream.getvalue()

    def _repr_html_(self) -> str:
        shown = base64.b64encode(self._repr_png_()).decode()
        colours = {name.name: name.colour for name in self.names.clusters}
        legend = "".join(
            f'<span style="margin-right:1em"><span style="color:{colours.get(name, "#888888")}">'
            f"&#9632;</span> {html.escape(name)} {100 * share:.0f} %</span>"
            for name, share in self.shares.items()
        )
        return f'<img src="data:image/png;base64,{shown}"/><div>{legend}</div>'


class Results:
    """Results of a folder's images, found one by one as they are walked.

    Args:
        model: What segments them.
        folder: Walked with all folders below; links that lead out of it are not followed.

    Attributes:
        broken: What could not be read so far, and why.
    """

    def __init__(self, model: "LoadedModel", folder: Path) -> None:
        self._model, self._folder = model, folder
        inside = folder.resolve()
        found = [path for path in walk(folder) if path.resolve().is_relative_to(inside)]
        self._paths = [path.relative_to(folder) for path in found]
        self.broken: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[tuple[Path, Result]]:
        """Yields each image's path below the folder, and its result; passes over broken files."""
        for path in self._paths:
            try:
                image = self._model.decoded((self._folder / path).read_bytes())
            except (UndecodableError, OSError) as error:
                self.broken[path] = str(error)
                continue
            yield path, self._model.of_array(image)

    def save(self, folder: str | Path) -> list[Path]:
        """Writes every mask as a PNG, below another folder as the images lie below theirs.

        Returns:
            What was written.
        """
        written = []
        for path, result in self:
            target = Path(folder) / path.with_name(f"{path.name}.png")
            result.save(target)
            written.append(target)
        return written

    def _repr_html_(self) -> str:
        parts = [f"<div>{len(self)} files</div>"]
        for (path, result), _ in zip(self, range(_SHOWN_RESULTS), strict=False):
            parts.append(f"<div>{html.escape(str(path))}</div>{result._repr_html_()}")
        return "".join(parts)


class LoadedModel:
    """A model that segments images, however they come.

    Args:
        segmenter: The model.

    Attributes:
        segmenter: The model.
        description: What it says of itself.
        names: What its clusters are called.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.description, self.names = segmenter.description, segmenter.names
        self._sight = self.description.preprocessing.sight

    @overload
    def predict(self, image: ImageLike) -> Result: ...
    @overload
    def predict(self, image: str | Path) -> "Result | Results": ...
    def predict(self, image: ImageLike | str | Path) -> Result | Results:
        """Segments an image, or all images of a folder.

        Args:
            image: A picture of Pillow's, an array (H, W, 3) or (H, W), the path of a file, or that
                of a folder. Arrays are uint8, or the numbers that the training images held.

        Returns:
            What was found; of a folder, results that come as they are walked.

        Raises:
            UserError: There is no such file, or it is no image.
        """
        if isinstance(image, np.ndarray):
            return self.of_array(_rgb(image, self._sight))
        if isinstance(image, Image.Image):
            return self.of_array(_rgb(_pixels(image), self._sight))
        path = Path(image).expanduser()
        if path.is_dir():
            return Results(self, path)
        try:
            return self.of_array(self.decoded(path.read_bytes()))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file or folder.") from None
        except (UndecodableError, OSError) as error:
            raise UserError(f"{path}: no image that can be read ({error}).") from None

    def decoded(self, data: bytes) -> UInt8[np.ndarray, "H W 3"]:
        """Decodes a file as the model sees it.

        Raises:
            UndecodableError: As for `data.numbers.decode_seen`.
        """
        return decode_seen(data, self._sight)

    def of_array(self, image: UInt8[np.ndarray, "H W 3"]) -> Result:
        """Segments (H, W, 3) uint8 RGB pixels."""
        return Result(image, self.segmenter.segment(image), self.segmenter)

    def __repr__(self) -> str:
        about = self.description
        learnt = f", learnt from {about.data}" if about.data else ""
        return f"<{about.method}, K = {about.num_clusters}, on {about.backbone.name}{learnt}>"

    def _repr_html_(self) -> str:
        squares = "".join(
            f'<span style="margin-right:1em"><span style="color:{name.colour}">&#9632;</span> '
            f"{html.escape(name.name)}</span>"
            for name in self.names.clusters
        )
        return f"<div>{html.escape(repr(self))}</div><div>{squares}</div>"


def _pixels(image: Image.Image) -> np.ndarray:
    """Reads a picture of Pillow's, turned as its file would be."""
    try:
        with guarded():
            plain = image if image.mode.startswith(("I", "F")) else image.convert("RGB")
            # Pillow's own turn ends in an exception where EXIF is broken, and obeys XMP.
            return turned(np.asarray(plain), orientation(image.info.get("exif", b"")))
    except UndecodableError as error:
        raise UserError(f"A picture that cannot be read ({error}).") from None


def _rgb(image: np.ndarray, sight: Sight) -> UInt8[np.ndarray, "H W 3"]:
    """Checks an array that somebody hands in, and scales it as the training images were."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if sight.scaling is not None and image.ndim == 3 and image.dtype.kind in "uif":
        image = seen(image, sight) if image.shape[2] == 3 else image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(
            f"An image is an array (H, W, 3) or (H, W) of uint8, not {image.shape} of "
            f"{image.dtype}."
        )
    return image
