"""k-means over points of all workers, by faiss.

The last step of a label-free segmentation: regions (ACSeg) or tokens (floors) of the training
images become K groups. Restarts are seeded by k-means++ here rather than inside faiss, so that
every version of faiss gives the better of the two usual seedings.
"""

from typing import Literal, NamedTuple

import faiss
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from usseg_ray.core.distributed import broadcast, rank, shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.ops.largest import argmax
from usseg_ray.ops.sampling import PointSample

Backend = Literal["faiss-cpu", "faiss-gpu"]
_EPSILON = 1e-12


class KMeansResult(NamedTuple):
    """The groups that k-means found.

    Attributes:
        centroids: (k, d) float32, unit rows if spherical.
        inertia: Sum of squared distances to the own centroid (of unit vectors if spherical).
    """

    centroids: Float[Tensor, "k d"]
    inertia: float


def available_backend(device: torch.device) -> Backend:
    """Says what `kmeans` computes with.

    Args:
        device: Where the points are; points on the CPU are never sent to a GPU.
    """
    has_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    return "faiss-gpu" if has_gpu and device.type == "cuda" else "faiss-cpu"


def kmeans(
    points: Float[Tensor, "n d"],
    k: int,
    seed: int,
    *,
    spherical: bool = False,
    restarts: int = 10,
    iterations: int = 50,
) -> KMeansResult:
    """Splits points into k groups; the best of several seeded starts.

    Args:
        points: (n, d), any float type, any device; clustered in float32.
        k: Number of groups.
        seed: Keys the starts; the same seed gives the same centroids.
        spherical: Cluster directions: points and centroids are scaled to unit norm.
        restarts: Starts to try.
        iterations: Most updates of a start.

    Returns:
        Centroids on the device of the points, and their inertia.

    Raises:
        UserError: Fewer distinct points than k, or a value that is not finite.
    """
    rows = _prepared(points, spherical)
    _require_distinct(rows, k, "points")
    gpu = available_backend(points.device) == "faiss-gpu"
    tries = []
    for restart in range(restarts):
        starts = _plus_plus(rows, k, shared_generator(seed, "kmeans", restart))
        centroids = _lloyd(rows, starts, spherical, iterations, gpu)
        tries.append(KMeansResult(centroids.to(points.device), _inertia(rows, centroids)))
    return min(tries, key=lambda result: result.inertia)


def fit_shared(
    sample: PointSample,
    k: int,
    seed: int,
    *,
    spherical: bool = False,
    restarts: int = 10,
    noun: str = "points",
) -> KMeansResult:
    """Clusters the points of all workers; all workers call it together.

    Args:
        sample: This worker's points.
        k: Number of groups.
        seed: As in `kmeans`.
        spherical: As in `kmeans`.
        restarts: As in `kmeans`.
        noun: What a point is, for the error.

    Returns:
        The same result on every worker, whatever their number.

    Raises:
        UserError: The training images give fewer distinct points than k.
    """
    points = sample.gather()
    # Every worker checks before one clusters, so that none is left waiting for a failed one.
    rows = _prepared(points, spherical)
    _require_distinct(rows, k, noun)
    centroids = points.new_empty((k, points.shape[1]))
    if rank() == 0:
        centroids = kmeans(points, k, seed, spherical=spherical, restarts=restarts).centroids
    broadcast(centroids)
    return KMeansResult(centroids, _inertia(rows, centroids.cpu()))


def similarity(
    points: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"], *, spherical: bool = False
) -> Float[Tensor, "n k"]:
    """Scores points against centroids, larger is nearer.

    Args:
        points: (n, d).
        centroids: (k, d).
        spherical: Cosine instead of distance.

    Returns:
        (n, k), the cosine or minus the squared Euclidean distance.
    """
    if spherical:
        return _unit(points) @ _unit(centroids).T
    return -_distance(points, centroids).square()


def assign(
    points: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"], *, spherical: bool = False
) -> Int64[Tensor, "n"]:
    """Finds the nearest centroid of every point.

    Args:
        points: (n, d).
        centroids: (k, d).
        spherical: By cosine instead of distance.

    Returns:
        (n,) int64, the centroid's row.
    """
    return argmax(similarity(points, centroids, spherical=spherical), 1)


def _unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return normalize(rows, dim=1, eps=_EPSILON)


def _distance(
    points: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"]
) -> Float[Tensor, "n k"]:
    # The faster mode subtracts large squares and cannot tell near points apart.
    return torch.cdist(points, centroids, compute_mode="donot_use_mm_for_euclid_dist")


def _prepared(points: Float[Tensor, "n d"], spherical: bool) -> Float[Tensor, "n d"]:
    rows = points.detach().float().cpu()
    return _unit(rows) if spherical else rows


def _require_distinct(rows: Float[Tensor, "n d"], k: int, noun: str) -> None:
    if not rows.isfinite().all():
        raise UserError(
            f"k-means met a value that is not finite among {len(rows)} {noun}: the features "
            "overflowed. Try resources.precision=float32, or other backbone.weights."
        )
    seen: set[bytes] = set()
    for row in rows.numpy():
        seen.add(row.tobytes())
        if len(seen) >= k:
            return
    raise UserError(
        f"k-means is asked for {k} groups, but the training images give only {len(seen)} distinct "
        f"{noun}. Lower num_clusters or give more (varied) training images."
    )


def _plus_plus(
    rows: Float[Tensor, "n d"], k: int, generator: torch.Generator
) -> Float[Tensor, "k d"]:
    """k-means++: each next start is drawn in proportion to its squared distance to the others."""
    draws = torch.rand(k, dtype=torch.float64, generator=generator)
    nearest = torch.ones(len(rows), dtype=torch.float64)
    starts = []
    for draw in draws:
        mass = nearest.cumsum(0)
        # Rounding may carry the draw onto the last, massless rows; the clamp keeps it on a point.
        index = torch.searchsorted(mass, draw * mass[-1], right=True).clamp(max=len(rows) - 1)
        starts.append(rows[index])
        distance = (rows - rows[index]).square().sum(1).double()
        nearest = torch.minimum(nearest, distance) if len(starts) > 1 else distance
    return torch.stack(starts)


def _lloyd(
    rows: Float[Tensor, "n d"],
    starts: Float[Tensor, "k d"],
    spherical: bool,
    iterations: int,
    gpu: bool,
) -> Float[Tensor, "k d"]:
    # faiss would take every core, also those of the trials beside this one.
    faiss.omp_set_num_threads(torch.get_num_threads())
    machine = faiss.Kmeans(
        rows.shape[1],
        len(starts),
        niter=iterations,
        spherical=spherical,
        gpu=gpu,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    machine.train(rows.numpy(), init_centroids=starts.numpy())
    return torch.from_numpy(np.array(machine.centroids))


def _inertia(rows: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"]) -> float:
    return float(_distance(rows, centroids).min(1).values.double().square().sum())
