"""The images that a gallery is made of: looked at one by one, then chosen from.

At most `MOST` are looked at, from all over the folder, and what is kept of each is small: memory
and time have a bound, however many images there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8

from usseg_ray.core.cli import OnProgress
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import resolve
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import check_aspect
from usseg_ray.data.scaling import Sight
from usseg_ray.models.description import Description
from usseg_ray.models.names import Names
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.outputs.gallery.seen import GalleryImage, see, touching
from usseg_ray.outputs.pixels import decoded
from usseg_ray.outputs.places import ImageFile, find_images, read_bytes

MOST = 300
"""Images that are looked at."""


@dataclass(frozen=True, eq=False)
class Survey:
    """What a model makes of a place full of images.

    Attributes:
        description: Of the model, as it is named.
        seen: The images that were looked at.
        images: How many there are.
        bad: How many of those that were to be looked at cannot be used.
    """

    description: Description
    seen: tuple[GalleryImage, ...]
    images: int
    bad: int

    @cached_property
    def shares(self) -> Float32[np.ndarray, " K"]:
        """Share of all pixels that each cluster has; every image counts alike."""
        return np.asarray(np.mean([one.shares for one in self.seen], axis=0))

    @cached_property
    def contact(self) -> Float[np.ndarray, "K K"]:
        """Share of its border that each cluster (a row) has with each other."""
        count = len(self.description.names)
        total = np.zeros((count, count), np.int64)
        for one in self.seen:
            total += touching(one.clusters, count)
        return np.asarray(total / np.maximum(total.sum(1, keepdims=True), 1))

    def typical(self, cluster: int, count: int) -> list[GalleryImage]:
        """Lists images with the patches that a cluster is surest of, one an image."""
        return self._first(np.array([-one.patches.sure[cluster] for one in self.seen]), count)

    def borderline(self, cluster: int, count: int) -> list[GalleryImage]:
        """Lists images with the patches that a cluster nearly lost, one an image."""
        return self._first(np.array([one.patches.margin[cluster] for one in self.seen]), count)

    def largest(self, cluster: int, count: int) -> list[GalleryImage]:
        """Lists the images of which a cluster has most."""
        shares = np.array([one.shares[cluster] for one in self.seen])
        return self._first(np.where(shares > 0, -shares, np.inf), count)

    def spread(self, count: int) -> list[GalleryImage]:
        """Lists images that differ most, by what the method says of them as a whole."""
        return [
            self.seen[index] for index in spread_codes(np.stack([s.code for s in self.seen]), count)
        ]

    def _first(self, cost: np.ndarray, count: int) -> list[GalleryImage]:
        order = np.argsort(cost, kind="stable")[:count]
        return [self.seen[index] for index in order if np.isfinite(cost[index])]


def spread_codes(codes: Float[np.ndarray, "n C"], count: int) -> Int64[np.ndarray, " m"]:
    """Chooses points all over a set: the one nearest the mean, then always the farthest from all.

    Args:
        codes: (n, C) points.
        count: How many; fewer where there are not as many different ones.

    Returns:
        Their numbers, in order.
    """
    chosen = [int(np.linalg.norm(codes - codes.mean(0), axis=1).argmin())]
    away = np.linalg.norm(codes - codes[chosen[0]], axis=1)
    while len(chosen) < count and away.max() > 0:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.linalg.norm(codes - codes[chosen[-1]], axis=1))
    return np.sort(chosen)


def survey_images(
    model: Path,
    images: str,
    *,
    device: str = "cpu",
    on_progress: OnProgress = lambda *_: None,
) -> Survey:
    """Looks at images through a model.

    Args:
        model: Its folder.
        images: A file, folder or URI.
        device: `cpu` or `cuda`.
        on_progress: Told how far it is.

    Raises:
        UserError: There are no images, or none that can be used; the model is damaged.
    """
    named = Segmenter.open(model, torch.device(device))
    description = named.description
    plain = Names.default(len(description.names))
    segmenter = Segmenter(description.model_copy(update={"names": plain}), named.model)
    sight = description.preprocessing.sight
    found = find_images(images, "").found
    chosen = all_over(found)
    seen, reasons = list[GalleryImage](), list[str]()
    for done, one in enumerate(chosen):
        on_progress(done, len(reasons), len(chosen))
        try:
            seen.append(see(segmenter, read_image(images, one, sight), one.name))
        except UndecodableError as error:
            reasons.append(f"{one.name}: {error}")
    if not seen:
        raise UserError(f"--images {images}: none can be used; the first, {reasons[0]}.")
    return Survey(description, tuple(seen), len(found), len(reasons))


def all_over(found: Sequence[ImageFile]) -> Sequence[ImageFile]:
    """Chooses at most `MOST` images, from all over a place."""
    return found[:: -(-len(found) // MOST)]


def read_image(place: str, found: ImageFile, sight: Sight) -> UInt8[np.ndarray, "H W 3"]:
    """Reads an image of a place as a model sees it.

    Raises:
        UndecodableError: It is too large, cannot be read, or is none.
    """
    image = decoded(read_bytes(resolve(place)[0], found), sight).image
    check_aspect(*image.shape[:2])
    return image
