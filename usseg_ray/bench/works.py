"""The losses that are measured, on random features, beside the official forms of the same inputs.

Off an image's path: each function makes inputs once and returns works that run forward and backward
on them as a training step does. Works return what they computed, so a test can hold our form
against the official one on the very inputs that are timed.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from usseg_ray.bench import naive
from usseg_ray.bench.meter import Work
from usseg_ray.methods.parts.clusterbook import clusterbook_losses
from usseg_ray.methods.parts.concepts import contrast, mean_term, relate
from usseg_ray.methods.parts.contrastive import (
    Candidates,
    ContrastiveOptions,
    best_match,
    hidden_positive_loss,
)
from usseg_ray.methods.parts.correspondence import (
    Draws,
    Maps,
    Shifts,
    Switches,
    avoid_self,
    correspondence_terms,
)
from usseg_ray.methods.parts.minibatch_kmeans import MiniBatchKMeans, Schedule, nearest
from usseg_ray.ops.attention import local_weights, propagate
from usseg_ray.ops.concept_bank import ConceptBank, Keys
from usseg_ray.ops.modularity import cosine, image_losses

_TEMPERATURE = 0.07


@dataclass(frozen=True)
class Sizes:
    """How large inputs are; the defaults are those of the official settings.

    Attributes:
        images: Batch of HP, STEGO and CAUSE.
        side: Side of HP's and STEGO's grids.
        features: Channels of the backbone.
        dim: Channels of HP's codes.
        pool: Rows of HP's reference pools.
        code_dim: Channels of STEGO's codes.
        samples: Side of STEGO's sampled grid.
        negatives: STEGO's negatives of an image.
        tokens: Sampled tokens of an image of CAUSE.
        codes: K of CAUSE's clusterbook.
        projection: Channels of CAUSE's keys.
        entries: Bank entries of a code.
        cluster_images: Images of a batch that PiCIE clusters.
        cluster_side: Side of PiCIE's grid.
        cluster_dim: Channels of PiCIE's codes.
        clusters: K of PiCIE.
        graphs: Batch of ACSeg.
        patches: N of ACSeg.
        concepts: K of ACSeg.
    """

    images: int = 16
    side: int = 28
    features: int = 384
    dim: int = 512
    pool: int = 2048
    code_dim: int = 70
    samples: int = 11
    negatives: int = 5
    tokens: int = 100
    codes: int = 2048
    projection: int = 2048
    entries: int = 10
    cluster_images: int = 8
    cluster_side: int = 80
    cluster_dim: int = 128
    clusters: int = 27
    graphs: int = 32
    patches: int = 784
    concepts: int = 5


class Forms(NamedTuple):
    """Two works that compute the same."""

    ours: Work
    official: Work


class _Random:
    """Reproducible random tensors."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)

    def unit(self, *shape: int) -> Tensor:
        return normalize(self.normal(*shape), dim=-1)


def _with_gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]


def code_product(sizes: Sizes) -> Work:
    """Multiplies N x N x `dim`, in blocks; HP's official loss does so eight times."""
    rows = _Random().unit(sizes.images * sizes.side**2, sizes.dim)

    def work() -> None:
        for block in rows.split(1024):
            block @ rows.mT

    return work


def contrastive(sizes: Sizes, anchors: int | None = None) -> Forms:
    """Makes HP's contrastive loss with both kinds of positives, their search in pools included.

    Args:
        sizes: How large inputs are.
        anchors: Images of which the official form, which goes from one to the next, does the
            anchors; all if unset.
    """
    random, patches = _Random(), sizes.side**2
    count = sizes.images * patches
    codes, mixed = (random.unit(count, sizes.dim).requires_grad_() for _ in range(2))
    rows = random.unit(count, sizes.features), random.unit(count, sizes.dim)
    pools = random.unit(sizes.pool, sizes.features), random.unit(sizes.pool, sizes.dim)
    # In blocks: the uniform numbers take four times the memory of the mask.
    sampled = torch.cat([random.uniform(1, count) < 0.02 for _ in range(patches)])
    options = ContrastiveOptions(temperature=0.6, task_weight=0.5)

    searched = sizes.images if anchors is None else anchors
    first = searched * patches
    # What the official form's other images would have found, which is not to be timed.
    known = [best_match(own[first:], pool) for own, pool in zip(rows, pools, strict=True)]

    def ours() -> list[Tensor]:
        agnostic, specific = (
            Candidates(own, best_match(own, pool)) for own, pool in zip(rows, pools, strict=True)
        )
        contrast = hidden_positive_loss(codes, mixed, agnostic, specific, sampled, patches, options)
        return _with_gradients(contrast.loss, codes, mixed)

    def official() -> list[Tensor]:
        agnostic, specific = (
            Candidates(own, torch.cat([best_match(own[:first], pool), best]))
            for own, pool, best in zip(rows, pools, known, strict=True)
        )
        loss = naive.dense_hidden_positive_loss(
            codes, mixed, agnostic, specific, sampled, options, searched
        )
        return _with_gradients(loss, codes, mixed)

    return Forms(ours, official)


def propagation(sizes: Sizes) -> Work:
    """Makes HP's mixing of codes with their neighbours'."""
    random, side = _Random(), sizes.side
    codes = random.normal(sizes.images, sizes.dim, side, side).requires_grad_()
    weights = random.uniform(sizes.images, 9, side, side)
    return lambda: _with_gradients(propagate(codes, weights), codes)


def neighbour_weights(sizes: Sizes) -> Work:
    """Makes HP's reduction of attention to the weights of neighbours."""
    logits = _Random().normal(sizes.images, sizes.side**2, sizes.side**2)
    return lambda: local_weights(logits, sizes.side, sizes.side)


def clusterbook(sizes: Sizes) -> Forms:
    """Makes the loss of CAUSE's clusterbook."""
    random = _Random()
    tokens = random.normal(sizes.images, sizes.tokens, sizes.features)
    codebook = random.normal(sizes.codes, sizes.features).requires_grad_()
    return Forms(
        lambda: _with_gradients(clusterbook_losses(tokens, codebook).mean(), codebook),
        lambda: _with_gradients(naive.dense_clusterbook_losses(tokens, codebook).mean(), codebook),
    )


class ConceptSteps:
    """CAUSE's concept loss and the upkeep of its bank, which is full from the start.

    Args:
        sizes: How large inputs are.
    """

    def __init__(self, sizes: Sizes) -> None:
        random = _Random()
        images, tokens, projection = sizes.images, sizes.tokens, sizes.projection
        self.codebook = random.normal(sizes.codes, sizes.features)
        self.anchors = random.normal(images, tokens, projection).requires_grad_()
        self.keys = random.normal(images * tokens, projection)
        # A batch shows a small part of all codes, each several times.
        shown = max(1, sizes.codes // 8)
        self.codes = (random.uniform(images * tokens) * shown).long()
        self.priorities = random.uniform(images * tokens)
        self.bank = ConceptBank(sizes.codes, projection, sizes.entries)
        every = torch.arange(sizes.codes)
        for _ in range(sizes.entries):
            keys = random.normal(sizes.codes, projection)
            self.bank.update(keys, every, every.float(), share=1.0)

    def lists(self) -> naive.ConceptLists:
        """Copies the bank into the official form's lists."""
        lists = naive.ConceptLists(self.codebook, self.keys.shape[1], self.bank.capacity)
        lists.entries = [self.bank.values[rows] for rows in self.bank.slots]
        return lists

    def joined(self) -> naive.ConceptKeys:
        """Returns what rebuilding the lists gives, in another order."""
        keys = self.bank.keys()
        return naive.ConceptKeys(keys.values, self.codebook[keys.codes])

    def ours(self) -> list[Tensor]:
        """Runs a step with the bank."""
        relations = relate(self.codes, self.codebook, positive_above=0.3, negative_below=0.1)
        batch = Keys(normalize(self.keys, dim=1), self.codes)
        terms = [
            contrast(self.anchors, relations, keys, temperature=_TEMPERATURE, keys_are_anchors=own)
            for keys, own in ((batch, True), (self.bank.keys(), False))
        ]
        result = _with_gradients(mean_term(terms), self.anchors)
        self.upkeep()
        return result

    def upkeep(self) -> Tensor:
        """Adds the batch's keys to the bank and returns all entries."""
        self.bank.update(self.keys, self.codes, self.priorities)
        return self.bank.keys().values

    def official(self, lists: naive.ConceptLists, bank: naive.ConceptKeys) -> list[Tensor]:
        """Runs a step with lists.

        Args:
            lists: They get the batch's keys.
            bank: What rebuilding them gives.
        """
        concepts = self.codebook[self.codes]
        loss = naive.concept_loss(
            naive.ConceptKeys(self.anchors, concepts.view(*self.anchors.shape[:2], -1)),
            naive.ConceptKeys(self.keys, concepts),
            bank,
            temperature=_TEMPERATURE,
        )
        result = _with_gradients(loss, self.anchors)
        lists.update(self.keys, self.codes, self.priorities)
        return result


def clustering(sizes: Sizes) -> Forms:
    """Makes PiCIE's assignment of a batch and the update of its centroids."""
    cells = _cells(sizes).flatten(2)
    rows = cells.mT.flatten(0, 1)
    starts = rows[: sizes.clusters].clone()
    names = [str(image) for image in range(len(cells))]

    def ours() -> list[Tensor]:
        schedule = Schedule(init_batches=0)
        machine = MiniBatchKMeans(sizes.clusters, sizes.cluster_dim, schedule)
        machine.centroids = starts
        machine.feed(names, cells)
        return [machine.centroids, machine.counts]

    def official() -> list[Tensor]:
        counts = np.zeros(sizes.clusters, np.int64)
        found = naive.kmeans_update(rows.numpy(), starts.numpy(), counts)
        return [torch.from_numpy(part) for part in found]

    return Forms(ours, official)


def labelling(sizes: Sizes) -> Forms:
    """Makes PiCIE's labels of a batch."""
    cells = _cells(sizes)
    centroids = cells[0].flatten(1).mT[: sizes.clusters].contiguous()
    return Forms(lambda: nearest(cells, centroids), lambda: naive.nearest_labels(cells, centroids))


def _cells(sizes: Sizes) -> Float[Tensor, "B C h w"]:
    shape = (sizes.cluster_images, sizes.cluster_dim, sizes.cluster_side, sizes.cluster_side)
    return normalize(_Random().normal(*shape), dim=1)


def correspondence(sizes: Sizes) -> Forms:
    """Makes STEGO's loss: one pair within, one with a neighbour, five with others."""
    random, images = _Random(), sizes.images
    anchors, positives = (
        Maps(
            random.normal(images, sizes.features, sizes.side, sizes.side),
            random.normal(images, sizes.code_dim, sizes.side, sizes.side).requires_grad_(),
        )
        for _ in range(2)
    )
    here, there = (
        2 * random.uniform(images, sizes.samples, sizes.samples, 2) - 1 for _ in range(2)
    )
    orders = random.uniform(sizes.negatives, images).argsort(1)
    draws, shifts = Draws(here, there, avoid_self(orders)), Shifts(0.18, 0.12, 0.46)

    def ours() -> list[Tensor]:
        terms = correspondence_terms(anchors, positives, draws, shifts, Switches())
        losses = torch.stack([term.loss for term in terms])
        return _with_gradients(losses, anchors.codes, positives.codes)

    def official() -> list[Tensor]:
        losses = naive.correspondence_loss(anchors, positives, draws, shifts)
        return _with_gradients(losses, anchors.codes, positives.codes)

    return Forms(ours, official)


def modularity(sizes: Sizes) -> Work:
    """Makes ACSeg's loss."""
    random = _Random()
    pixels = random.normal(sizes.graphs, sizes.patches, sizes.features)
    concepts = random.normal(sizes.graphs, sizes.concepts, sizes.features)
    soft = cosine(pixels, concepts).requires_grad_()
    return lambda: _with_gradients(image_losses(pixels, soft).mean(), soft)
