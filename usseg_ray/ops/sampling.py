"""A uniform sample of points over all images of all workers.

Clustering a data set starts here: every image adds its points, and k-means gets at most `limit` of
them. Each point draws a random priority from its image's own key and the lowest priorities stay,
so the sample, and even its order, depends neither on the order of the images nor on how they are
split over workers, and one walk over the data is enough.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from usseg_ray.core.distributed import all_gather, shared_generator
from usseg_ray.ops.transfer import sent

_PRIORITIES = 2**63 - 1


def holding(names: Sequence[str], points: int, limit: int, *key: int | str) -> set[str] | None:
    """Says which of a worker's images may hold points of a sample, before any is encoded.

    Args:
        names: The worker's images.
        points: Points of an image.
        limit: As of the `PointSample` that is to be taken.
        key: As in `PointSample.add_maps`.

    Returns:
        Those of `names`; `None` if all do.
    """
    if len(names) * points <= limit:
        return None
    drawn = PointSample(1, limit)
    for number, name in enumerate(names):
        drawn.add(torch.full((points, 1), float(number)), *key, name)
    found = {names[int(number)] for number in drawn.own()[:, 0].unique()}
    return found if len(found) < len(names) else None


class PointSample:
    """Keeps the points with the lowest random priorities.

    Args:
        dim: Channels of a point; a worker without images must know it too.
        limit: Points to keep, over all workers.
        device: Where points are kept.
    """

    def __init__(self, dim: int, limit: int, device: torch.device | None = None) -> None:
        self._limit = limit
        self._points = [torch.empty(0, dim, device=device)]
        self._priorities = [torch.empty(0, dtype=torch.int64, device=device)]
        self._held = 0

    def add(self, points: Float[Tensor, "n d"], *key: int | str) -> None:
        """Offers the points of one image.

        Args:
            points: (n, d) float32, in an order that the image alone decides.
            key: Keys the draw, for example `(seed, "kmeans", image_id)`.
        """
        draws = torch.randint(_PRIORITIES, (len(points),), generator=shared_generator(*key))
        self._points.append(points)
        self._priorities.append(sent(draws, points.device))
        self._held += len(points)
        # Sorting only when twice the limit has come keeps the cost per image constant.
        if self._held > 2 * self._limit:
            points, priorities = self._own()
            self._points, self._priorities = [points], [priorities]
            self._held = len(points)

    def add_maps(self, maps: Float[Tensor, "B d h w"], ids: Sequence[str], *key: int | str) -> None:
        """Offers every position of some images' maps.

        Args:
            maps: (B, d, h, w) float32.
            ids: The images' ids; each joins the key of its image's draw.
            key: As in `add`.
        """
        for name, points in zip(ids, maps.flatten(2).mT, strict=True):
            self.add(points, *key, name)

    def gather(self) -> Float[Tensor, "m d"]:
        """Joins the workers' samples; all workers call it together.

        Returns:
            (m, d) float32, m <= limit, the same rows in the same order on every worker.
        """
        points, priorities = self._own()
        return self._lowest(all_gather(points), all_gather(priorities))[0]

    def own(self) -> Float[Tensor, "m d"]:
        """Returns what this worker gives to the sample."""
        return self._own()[0]

    def _own(self) -> tuple[Float[Tensor, "m d"], Int64[Tensor, "m"]]:
        return self._lowest(torch.cat(self._points), torch.cat(self._priorities))

    def _lowest(
        self, points: Float[Tensor, "n d"], priorities: Int64[Tensor, "n"]
    ) -> tuple[Float[Tensor, "m d"], Int64[Tensor, "m"]]:
        order = priorities.argsort()[: self._limit]
        return points[order], priorities[order]
