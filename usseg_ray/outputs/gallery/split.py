"""A cluster of a model made two, by k-means on what images have in it.

The larger part keeps the cluster's number, name and colour; the other gets the next number. All
other clusters stay as they are, but lose what is nearer to a part than it was to the whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, Images
from usseg_ray.core.views import Frame
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.transforms import frame_image
from usseg_ray.engine.model import Model
from usseg_ray.features.backbones import feature_spec
from usseg_ray.methods.base import Method
from usseg_ray.models.description import Description
from usseg_ray.models.folder import BACKBONE_FILE, save_model
from usseg_ray.models.names import Name, Names, unnamed
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.ops.kmeans import assign, kmeans
from usseg_ray.ops.sampling import PointSample
from usseg_ray.outputs.gallery.survey import all_over, read_image
from usseg_ray.outputs.places import find_images

_POINTS = 5000
"""Codes, or regions, of a cluster that are grouped at most."""

_ENOUGH = 2


@dataclass(frozen=True)
class Parts:
    """What became of a cluster.

    Attributes:
        cluster: Its number, which the larger part keeps.
        added: That of the other part.
        share: Of what was in the cluster, how much the larger part has.
    """

    cluster: int
    added: int
    share: float


@dataclass(frozen=True)
class Splits:
    """What became of a model.

    Attributes:
        names: What its clusters are called now.
        parts: For each cluster that was split.
        moved: Share of all patches that other clusters lost to the parts, or got from them.
    """

    names: Names
    parts: tuple[Parts, ...]
    moved: float

    def lines(self) -> list[str]:
        """Says it, a line each."""
        called = [name.name for name in self.names.clusters]
        said = [
            f"{one.cluster}: {called[one.cluster]} keeps {100 * one.share:.0f} % of its patches, "
            f"{one.added}: {called[one.added]} has the others."
            for one in self.parts
        ]
        moved = f"{100 * self.moved:.1f} % of all patches moved between these and other clusters."
        return [*said, f"{moved} Scores of the model as it was are left out of it."]


def split(folder: Path, names: Names, images: str, device: str = "cpu") -> Splits:
    """Splits clusters of a model in two, and writes it with its names.

    Args:
        folder: Of the model.
        names: What its clusters are to be called, and which of them are to be split.
        images: A file, folder or URI: what it learnt from, or the like.
        device: `cpu` or `cuda`.

    Raises:
        UserError: The method's clusters are no centroids; the images do not have two different
            patches of a cluster, or cannot be used.
    """
    asked = [cluster for cluster, name in enumerate(names.clusters) if name.split]
    segmenter = Segmenter.open(folder, torch.device(device))
    model, about = segmenter.model, segmenter.description
    _check(model.method, asked)
    seen = list(_framed(images, about))
    if not seen:
        raise UserError(f"--images {images}: none can be used.")
    found, before = _looked(model, seen, asked)
    halves = {cluster: _halved(points, model.method, cluster) for cluster, points in found.items()}
    parted = _parted(model, [halves[cluster][0] for cluster in asked], asked)
    parts = tuple(
        Parts(cluster, len(names) + number, halves[cluster][1])
        for number, cluster in enumerate(asked)
    )
    after = [_labels(parted, batch) for batch in _batches(model, seen)]
    inside = [*asked, *(one.added for one in parts)]
    moved = np.mean(
        [np.isin(o, asked) != np.isin(n, inside) for o, n in zip(before, after, strict=True)]
    )
    called = _named(names, parts)
    k = len(called)
    written = about.model_copy(
        update={
            "names": called,
            "num_clusters": k,
            "config": {**about.config, "num_clusters": k},
            "scores": None,
            "split_from": about.split_from or about.weights_sha256,
        }
    )
    weights = folder / BACKBONE_FILE if about.backbone.file else None
    save_model(folder, written, parted.state_dict(), weights)
    return Splits(called, parts, float(moved))


def _check(method: Method, asked: Sequence[int]) -> None:
    advice = (
        f"train it with more clusters (--set num_clusters={method.num_clusters + 1}), and merge "
        "those that you do not need."
    )
    if not method.centroids_in:
        raise UserError(
            f"split: {method.name} tells clusters apart by a network of its own, not by centroids, "
            f"so none can be split: {advice}"
        )
    for cluster in asked:
        if cluster < method.without_centroid:
            raise UserError(f"split: {cluster} is the background, which has no centroid: {advice}")


def _framed(images: str, about: Description) -> Iterator[Images]:
    """Reads images as training saw them; passes over those that cannot be used."""
    shown = about.preprocessing
    for one in all_over(find_images(images, "").found):
        try:
            image = read_image(images, one, shown.sight)
        except UndecodableError:
            continue
        pixels = torch.from_numpy(frame_image(image, Frame(shown.size, "centre", shown.filter)))
        yield Images((one.name,), pixels[None])


def _batches(model: Model, seen: Sequence[Images]) -> Iterator[Batch]:
    return (model.featurise(one) for one in seen)


@torch.no_grad()
def _labels(method: Method, batch: Batch) -> Int64[np.ndarray, "B h w"]:
    return np.asarray(method.predict(batch).argmax(1).cpu().numpy())


def _looked(
    model: Model, seen: Sequence[Images], asked: Sequence[int]
) -> tuple[dict[int, Float[Tensor, "n C"]], list[np.ndarray]]:
    """Gathers what images have in clusters, and what they are as a whole."""
    method = model.method
    rows = method.state_dict()[method.centroids_in[0]]
    samples = {cluster: PointSample(rows.shape[1], _POINTS, rows.device) for cluster in asked}
    labels = []
    for batch in _batches(model, seen):
        labels.append(_labels(method, batch))
        for cluster, sample in samples.items():
            sample.add(method.members(batch, cluster), method.seed, "split", *batch.ids)
    return {cluster: sample.gather() for cluster, sample in samples.items()}, labels


def _halved(
    points: Float[Tensor, "n C"], method: Method, cluster: int
) -> tuple[Float[Tensor, "2 C"], float]:
    """Groups what is in a cluster in two, the larger part first, and says how large that is."""
    if len(points.unique(dim=0)) < _ENOUGH:
        raise UserError(
            f"split: --images has {len(points)} patches of cluster {cluster}, and no two that "
            "differ. Give more images in which it is."
        )
    centroids = kmeans(points, 2, method.seed, spherical=method.spherical).centroids
    share = float((assign(points, centroids, spherical=method.spherical) == 0).float().mean())
    return (centroids, share) if share >= 1 / 2 else (centroids.flip(0), 1 - share)


def _parted(model: Model, halves: Sequence[Float[Tensor, "2 C"]], asked: Sequence[int]) -> Method:
    """Makes the method anew, with a centroid more for each cluster that is split."""
    method, config = model.method, model.config
    state = dict(method.state_dict())
    for entry in state.keys() & set(method.centroids_in):
        rows = state[entry].clone()
        for cluster, half in zip(asked, halves, strict=True):
            rows[cluster - method.without_centroid] = half[0]
        state[entry] = torch.cat([rows, *(half[1:] for half in halves)])
    spec = feature_spec(config.backbone, config.data)
    k = method.num_clusters + len(asked)
    parted = type(method)(config.method, spec, k, config.seed)
    parted.load_state_dict(state)
    return parted.to(model.featurise.device).eval()


def _named(names: Names, parts: Sequence[Parts]) -> Names:
    """Calls the smaller parts after the larger ones, in colours that are not taken."""
    known = [name.model_copy(update={"split": None}) for name in names.clusters]
    taken = {name.colour for name in known}
    fresh = Names.default(2 * (len(known) + len(parts))).clusters
    free = iter([name.colour for name in fresh if name.colour not in taken])
    added = []
    for one in parts:
        whole = known[one.cluster]
        plain = whole.name == unnamed(one.cluster)
        name = unnamed(one.added) if plain else f"{whole.name[:190]} 2"
        added.append(Name(**{**whole.model_dump(), "name": name, "colour": next(free)}))
    return Names((*known, *added))
