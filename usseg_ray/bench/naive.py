"""The methods' losses as their official code computes them, as yardsticks for our own forms.

Off an image's path: only the benchmark and the tests that prove both forms equal come here. Each
function is written from the method's equations and does the same work in the same order as the
official code does, the whole (B, K, N, N) tensor and the bank rebuilt key by key included, but none
of it is copied.
"""

from typing import NamedTuple

import faiss
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, normalize

from usseg_ray.methods.parts.contrastive import Candidates, ContrastiveOptions
from usseg_ray.methods.parts.correspondence import Draws, Maps, Shifts

_POSITIVE_ABOVE = 0.3
_NEGATIVE_BELOW = 0.1
_HP_TEMPERATURE = 0.07


def dense_clusterbook_losses(
    tokens: Float[Tensor, "B N D"], codebook: Float[Tensor, "K D"], *, temperature: float = 0.1
) -> Float[Tensor, "B"]:
    """Computes minus the soft modularity of every image from all products of all codes.

    Args:
        tokens: (B, N, D), not normalised.
        codebook: (K, D), not normalised.
        temperature: Agreement on a code is tanh of the product of cosines over this.

    Returns:
        (B,) as `usseg_ray.methods.parts.clusterbook.clusterbook_losses`.
    """
    rows = normalize(tokens, dim=2)
    edges = (rows @ rows.mT).clamp(min=0)
    edges.diagonal(dim1=1, dim2=2).zero_()
    degree = edges.sum(2)
    total = degree.sum(1)[:, None, None]
    modularity = edges - degree[:, :, None] * degree[:, None] / total
    positive = (rows @ normalize(codebook, dim=1).mT).clamp(min=0).mT
    products = positive[:, :, :, None] @ positive[:, :, None]
    delta = (products / temperature).tanh().max(1).values
    return -(modularity / total @ delta).diagonal(dim1=1, dim2=2).sum(1)


class ConceptKeys(NamedTuple):
    """Vectors with the codebook's vectors of their codes.

    Attributes:
        values: (..., M, J), not normalised.
        concepts: (..., M, D), not normalised.
    """

    values: Float[Tensor, "*B M J"]
    concepts: Float[Tensor, "*B M D"]

    def unit(self) -> "ConceptKeys":
        """Returns both at unit length."""
        return ConceptKeys(*(normalize(part, dim=-1) for part in self))


class ConceptLists:
    """A concept bank of one list of keys per code.

    Args:
        codebook: (K, D).
        dim: Channels of a key.
        capacity: Entries of a code.
    """

    def __init__(self, codebook: Float[Tensor, "K D"], dim: int, capacity: int) -> None:
        self.codebook = codebook
        self.capacity = capacity
        self.entries = [codebook.new_empty(0, dim) for _ in codebook]

    def rebuild(self) -> ConceptKeys:
        """Joins all lists, one code at a time."""
        values = self.entries[0].new_empty(0, self.entries[0].shape[1])
        concepts = self.codebook.new_empty(0, self.codebook.shape[1])
        for own, concept in zip(self.entries, self.codebook, strict=True):
            values = torch.cat([values, own])
            concepts = torch.cat([concepts, concept.expand(len(own), -1)])
        return ConceptKeys(values, concepts)

    @torch.no_grad()
    def update(
        self,
        values: Float[Tensor, "N J"],
        codes: Int64[Tensor, "N"],
        priorities: Float[Tensor, "N"],
        share: float = 0.5,
    ) -> None:
        """Adds a random share of every code's tokens, one code at a time.

        Args:
            values: (N, J).
            codes: (N,) the code of each.
            priorities: (N,) random numbers; the lowest of a code enter, in this order.
            share: Part of a code's tokens that enters, rounded down.
        """
        for code in codes.unique().tolist():
            own = (codes == code).nonzero()[:, 0]
            chosen = own[priorities[own].argsort()][: int(share * len(own))]
            self.entries[code] = torch.cat([self.entries[code], values[chosen]])[-self.capacity :]


def concept_loss(
    anchors: ConceptKeys, keys: ConceptKeys, bank: ConceptKeys, *, temperature: float
) -> Float[Tensor, ""]:
    """Contrasts every image's anchors with the batch's keys and the bank's, one image at a time.

    Args:
        anchors: (B, P, J) and (B, P, D).
        keys: (B P, J) and (B P, D); key n is a view of anchor n.
        bank: (M, J) and (M, D).
        temperature: Logits are cosines over it.

    Returns:
        Scalar, the mean over images and both kinds of keys.
    """
    keys, bank = keys.unit(), bank.unit()
    terms = []
    for image, own in enumerate(map(ConceptKeys, *anchors.unit())):
        terms.append(_concept_term(own, keys, temperature, first=image * len(own.values)))
        terms.append(_concept_term(own, bank, temperature, first=None))
    return torch.stack(terms).mean()


def _concept_term(
    anchors: ConceptKeys, keys: ConceptKeys, temperature: float, first: int | None
) -> Float[Tensor, ""]:
    """Computes one term; anchors are views of the keys from number `first` on."""
    alike = anchors.concepts @ keys.concepts.mT
    positive, negative = (alike > _POSITIVE_ABOVE).float(), (alike < _NEGATIVE_BELOW).float()
    if first is not None:
        positive.diagonal(first).zero_()
    logits = anchors.values @ keys.values.mT / temperature
    logits = logits - logits.max(1, keepdim=True).values.detach()
    total = (logits.exp() * (positive + negative)).sum(1, keepdim=True)
    return -(positive * (logits - total.log())).sum() / positive.sum()


def dense_hidden_positive_loss(
    codes: Float[Tensor, "N C"],
    mixed: Float[Tensor, "N C"],
    agnostic: Candidates,
    specific: Candidates,
    sampled: Bool[Tensor, "n N"],
    options: ContrastiveOptions,
    images: int,
) -> Float[Tensor, ""]:
    """Computes HP's contrastive loss one image of anchors at a time, all its pairs kept.

    Args:
        codes: (N, C), unit norm.
        mixed: (N, C) of the locally mixed codes, unit norm.
        agnostic: Frozen features and their best matches.
        specific: The teacher's codes and their best matches.
        sampled: (n, N) pairs that join the denominators by chance.
        options: `temperature` and `task_weight`; anchors weigh by their positives, kinds jointly.
        images: So many have anchors, the first ones.

    Returns:
        Scalar, the mean over these images.
    """
    patches, terms = len(sampled), []
    for rows in (slice(n * patches, (n + 1) * patches) for n in range(images)):
        with torch.no_grad():
            own, other = (_above_either(kind, rows) for kind in (agnostic, specific))
            counting = own.any(1).nonzero()[:, 0]
            weights = (own.float() + options.task_weight * other.float())[counting]
            active = torch.logical_or(own, sampled).float()
            active[torch.arange(patches), torch.arange(rows.start, rows.stop)] = 0
            active = active[counting]
        both = [_likelihoods(kind, rows, counting, active, options) for kind in (codes, mixed)]
        terms.append(-((weights * both[0]).sum() + (weights * both[1]).sum()) / weights.sum())
    return options.temperature / (2 * _HP_TEMPERATURE) * torch.stack(terms).mean()


def _above_either(kind: Candidates, rows: slice) -> Bool[Tensor, "n N"]:
    """Marks pairs above the best match of one of both, from repeated thresholds."""
    alike = kind.rows[rows] @ kind.rows.mT
    own = kind.best[rows, None].repeat(1, len(kind.rows))
    other = kind.best[None].repeat(len(alike), 1)
    found = torch.logical_or(alike > own, alike > other)
    found[torch.arange(len(alike)), torch.arange(rows.start, rows.stop)] = False
    return found


def _likelihoods(
    codes: Float[Tensor, "N C"],
    rows: slice,
    counting: Int64[Tensor, " A"],
    active: Float[Tensor, "A N"],
    options: ContrastiveOptions,
) -> Float[Tensor, "A N"]:
    """Computes the log-likelihood of every pair of some anchors."""
    logits = codes[rows][counting] @ codes.mT / options.temperature
    logits = logits - logits.max(1, keepdim=True).values.detach()
    return logits - (logits.exp() * active).sum(1, keepdim=True).log()


def correspondence_loss(
    anchors: Maps, positives: Maps, draws: Draws, shifts: Shifts
) -> Float[Tensor, "3"]:
    """Computes STEGO's three terms from whole maps, sampled and normalised anew for every pair.

    Args:
        anchors: Features and codes of a batch.
        positives: Those of one neighbour of each image.
        draws: Where to look, and at which negatives.
        shifts: b of each term.

    Returns:
        Within images, with neighbours, with other images; default switches of the official code.
    """
    here = _sampled(anchors, draws.anchors)
    terms = [
        _correspondence(here, here, shifts.intra),
        _correspondence(here, _sampled(positives, draws.others), shifts.inter),
    ]
    negatives = [
        _correspondence(
            here,
            _sampled(Maps(*(part[images] for part in anchors)), draws.others),
            shifts.negative,
        )
        for images in draws.negatives
    ]
    return torch.stack([*(term.mean() for term in terms), torch.cat(negatives).mean()])


def _sampled(maps: Maps, coords: Float[Tensor, "B S S 2"]) -> Maps:
    places = coords.transpose(1, 2)
    return Maps(
        *(grid_sample(part, places, padding_mode="border", align_corners=True) for part in maps)
    )


def _cosines(
    first: Float[Tensor, "B D S S"], second: Float[Tensor, "B D S S"]
) -> Float[Tensor, "B S S S S"]:
    units = [normalize(maps, dim=1, eps=1e-10) for maps in (first, second)]
    return torch.einsum("bdhw,bdij->bhwij", *units)


def _correspondence(first: Maps, second: Maps, shift: float) -> Float[Tensor, "B S S S S"]:
    with torch.no_grad():
        alike = _cosines(first.features, second.features)
        mean = alike.mean()
        alike = alike - alike.mean((3, 4), keepdim=True)
        alike = alike - alike.mean() + mean
    codes = _cosines(first.codes, second.codes)
    return -codes.clamp(min=0) * (alike - shift)


def kmeans_update(
    rows: Float32[np.ndarray, "n C"],
    centroids: Float32[np.ndarray, "K C"],
    counts: Int64[np.ndarray, "K"],
) -> tuple[Float32[np.ndarray, "K C"], Int64[np.ndarray, "K"]]:
    """Assigns rows by faiss and moves centroids one at a time.

    Args:
        rows: (n, C).
        centroids: (K, C).
        counts: (K,) rows that each centroid is the mean of.

    Returns:
        New centroids and counts.
    """
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(centroids)
    labels = index.search(rows, 1)[1][:, 0]
    centroids, counts = centroids.copy(), counts.copy()
    for cluster in np.unique(labels):
        own = rows[np.where(labels == cluster)[0]]
        counts[cluster] += len(own)
        rate = len(own) / (counts[cluster] + 1e-6)
        centroids[cluster] = (1 - rate) * centroids[cluster] + rate * own.mean(0)
    return centroids, counts


def nearest_labels(
    features: Float[Tensor, "B C h w"], centroids: Float[Tensor, "K C"]
) -> Int64[Tensor, "B h w"]:
    """Labels cells by a 1x1 convolution and the best of its scores.

    Args:
        features: (B, C, h, w), unit norm.
        centroids: (K, C).

    Returns:
        (B, h, w) nearest centroids.
    """
    products = conv2d(features, centroids[:, :, None, None])
    scores = -(1 - 2 * products + centroids.square().sum(1)[:, None, None])
    return scores.topk(1, dim=1).indices[:, 0]
