"""Names of one model, taken over by another that was trained anew: by what both see in images.

It works for any two models, whatever their methods and numbers of clusters. Clusters are paired
one to one so that the overlap of their pixels, intersection over union, is largest in sum
(the Hungarian method).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from usseg_ray.models.description import read_description, write_description
from usseg_ray.models.names import Name, Names, unnamed
from usseg_ray.outputs.gallery.survey import Survey, survey_images

DOUBTFUL = 0.1
"""A pair whose margin is below may be wrong."""


@dataclass(frozen=True)
class NameSource:
    """Where a cluster has its name from.

    Attributes:
        cluster: Of the new model.
        was: The old model's; `None` without a partner.
        overlap: Intersection over union of their pixels.
        margin: How far that is above the overlap of either with any other cluster; below 0 where
            another would have been nearer, and is taken.
    """

    cluster: int
    was: int | None
    overlap: float
    margin: float

    @property
    def doubtful(self) -> bool:
        """Whether the name may be wrong."""
        return self.was is not None and self.margin < DOUBTFUL


@dataclass(frozen=True)
class NameTransfer:
    """Names that were taken over.

    Attributes:
        names: Of the new model.
        pairs: One for each of its clusters.
        lost: Names that found no cluster.
    """

    names: Names
    pairs: tuple[NameSource, ...]
    lost: tuple[str, ...]

    def lines(self) -> list[str]:
        """Says where each name is from and how sure that is, a line each."""
        said = []
        for pair in self.pairs:
            if pair.was is None:
                said.append(f"{pair.cluster}: new, no name taken over")
                continue
            doubt = "; doubtful, look at it" if pair.doubtful else ""
            said.append(
                f"{pair.cluster}: {self.names.clusters[pair.cluster].name} (was {pair.was}, "
                f"overlap {pair.overlap:.2f}, margin {pair.margin:.2f}{doubt})"
            )
        if self.lost:
            said.append(f"Names without a cluster now: {', '.join(self.lost)}")
        return said


def take_over(old: Path, new: Path, images: str, device: str = "cpu") -> NameTransfer:
    """Has both models look at images, and writes the names of one into the other.

    Args:
        old: Folder of the model that has names.
        new: Folder of the other.
        images: A file, folder or URI.
        device: `cpu` or `cuda`.

    Raises:
        UserError: As of `survey.survey_images`, for either.
    """
    found = carry(*(survey_images(model, images, device=device) for model in (old, new)))
    about = read_description(new)
    write_description(about.model_copy(update={"names": found.names}), new)
    return found


def carry(old: Survey, new: Survey) -> NameTransfer:
    """Gives the clusters of a model the names of another's.

    Args:
        old: Of the model that has names.
        new: Of the other, of the same images.
    """
    known = old.description.names
    pairs = paired(overlaps(old, new))
    now = {pair.was: pair.cluster for pair in pairs if pair.was is not None}
    lost = tuple(name.name for was, name in enumerate(known.clusters) if was not in now)
    return NameTransfer(_renamed(known, pairs, now), tuple(pairs), lost)


def overlaps(old: Survey, new: Survey) -> Float[np.ndarray, "K L"]:
    """Measures what clusters of two models share: intersection over union, of small copies."""
    counts = np.zeros((len(old.description.names), len(new.description.names)), np.int64)
    others = {one.name: one.clusters for one in new.seen}
    for one in old.seen:
        if (other := others.get(one.name)) is not None:
            np.add.at(counts, (one.clusters.ravel(), other.ravel()), 1)
    union = counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts
    return np.asarray(counts / np.maximum(union, 1))


def paired(overlap: Float[np.ndarray, "K L"]) -> list[NameSource]:
    """Pairs clusters one to one; those that share nothing have no partner.

    Args:
        overlap: (K, L) of K old and L new clusters.
    """
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    together = zip(rows.tolist(), columns.tolist(), strict=True)
    found = {new: old for old, new in together if overlap[old, new] > 0}
    pairs = []
    for cluster in range(overlap.shape[1]):
        was = found.get(cluster)
        if was is None:
            pairs.append(NameSource(cluster, None, 0.0, 0.0))
            continue
        others = np.concatenate(
            [np.delete(overlap[was], cluster), np.delete(overlap[:, cluster], was)]
        )
        shared = float(overlap[was, cluster])
        pairs.append(NameSource(cluster, was, shared, shared - float(others.max(initial=0.0))))
    return pairs


def _renamed(known: Names, pairs: Sequence[NameSource], now: dict[int, int]) -> Names:
    """Copies names; merges go with them where what a cluster was merged into is there."""
    taken = {known.clusters[pair.was].colour for pair in pairs if pair.was is not None}
    fresh = Names.default(len(pairs) + len(known)).clusters
    free = iter([name.colour for name in fresh if name.colour not in taken])
    clusters = []
    for pair in pairs:
        if pair.was is None:
            clusters.append(Name(name=unnamed(pair.cluster), colour=next(free)))
            continue
        name = known.clusters[pair.was]
        into = None if name.merge_into is None else now.get(name.merge_into)
        called = name.name if name.name != unnamed(pair.was) else unnamed(pair.cluster)
        clusters.append(name.model_copy(update={"name": called, "merge_into": into}))
    return Names(tuple(clusters))
