"""PiCIE: a network learns to agree with its own clusters across two views of an image.

Pixels -> a CNN with a feature pyramid, trained from its first layer on -> codes at a quarter of the
image's size. At the start of an epoch mini-batch k-means clusters the codes of each view and every
cell is labelled with its nearest centroid; then the network is trained to tell those labels from
the codes of the same view (within) and of the other one (across), with the centroids as classifier.
The views differ in colour, and in whether pixels or codes are cropped and mirrored.

Labels are not stored: a frozen copy of the network as it was when the epoch began makes them anew
for each batch, so a state between two steps resumes exactly.

Reference:
    Cho et al., PiCIE: Unsupervised Semantic Segmentation using Invariance and Equivariance in
    Clustering, CVPR 2021, arXiv 2103.17070; where paper and official code differ, the code.
"""

import copy
import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from usseg_ray.core.config import MethodConfig
from usseg_ray.core.distributed import all_sum, shared_generator
from usseg_ray.core.types import Batch, FeatureSpec, Pair, StepResult
from usseg_ray.methods.base import CodeClassifier, Defaults, Needs, ParamGroup, Passes
from usseg_ray.methods.parts.geometry import crop_and_flip
from usseg_ray.methods.parts.joint import (
    JointBatchNorm,
    SecondStatistics,
    mean_squared_difference,
    weighted_cross_entropy,
)
from usseg_ray.methods.parts.minibatch_kmeans import MiniBatchKMeans, Schedule
from usseg_ray.methods.parts.pyramid import PyramidNetwork
from usseg_ray.methods.parts.view_clusters import ViewClusters, cross_view_terms
from usseg_ray.ops.unset import unset
from usseg_ray.settings.picie import PiCIEConfig


class PiCIE(CodeClassifier):
    """Invariance and equivariance in clustering, its baseline MDC, and PiCIE+H.

    Args:
        config: The method's settings.
        features: Of the frozen backbone, which is not used.
        num_clusters: K.
        seed: Keys initial weights and k-means.

    Raises:
        UserError: The network or its weights cannot be had.
    """

    name: ClassVar[str] = "picie"
    Config: ClassVar[type[MethodConfig]] = PiCIEConfig
    defaults: ClassVar[Defaults] = Defaults(
        schedule={"train.epochs": 10, "train.batch_size": 128, "data.crop_scale": 0.25},
        # From scratch, on images of half the size: a network of its own is what costs time.
        embedded={
            "method.network.pretrained": False,
            "method.lr": 1e-3,
            "method.cluster_batch": 32,
            "data.train_size": 96,
            "train.epochs": 3,
        },
        trained={"method.network.pretrained": False, "method.network.weights": None},
    )
    sharpness: ClassVar[float] = 1.0

    def __init__(
        self, config: PiCIEConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.config = config
        self.network = PyramidNetwork(config.network, seed, self.name)
        self.labeller = copy.deepcopy(self.network).requires_grad_(False)
        self.num_views = 1 if config.variant == "mdc" else 2
        dim, generator = config.network.dim, shared_generator(seed, self.name, "centroids")
        self.clustering = ViewClusters(self.num_views, num_clusters, dim, generator)
        finer = config.variant == "over_clustering"
        self.finer = ViewClusters(2, config.over_clusters, dim, generator) if finer else None
        learnt = config.variant == "mdc" and config.mdc_classifier == "learnt"
        self.classifier = unset(nn.Conv2d(dim, num_clusters, 1, device="meta")) if learnt else None
        self._renew_classifier(0)

    @classmethod
    def needs(cls, config: Any) -> Needs:  # noqa: ANN401
        """Needs pairs of views, and no frozen features."""
        return Needs(features=False, pair=config.jitter)

    def param_groups(self, stage: str) -> list[ParamGroup]:  # noqa: ARG002
        """Lists the network, and MDC's classifier.

        The official code gives each epoch's classifier an optimiser of its own; here its moments
        outlive the epoch.
        """
        modules = [self.network, *([] if self.classifier is None else [self.classifier])]
        params = [parameter for module in modules for parameter in module.parameters()]
        return [ParamGroup(params=params, lr=self.config.lr, optimiser="adam")]

    @torch.no_grad()
    def on_epoch_start(self, stage: str, epoch: int, passes: Passes) -> None:  # noqa: ARG002
        """Clusters the views, freezes the network that labels the epoch, and weighs the clusters.

        Args:
            stage: The one stage, `train`.
            epoch: The run's epoch, the key of its views.
            passes: Walks over this worker's training images.

        Raises:
            UserError: The images have fewer cells than K.
        """
        self._cluster(epoch, passes)
        self.labeller.load_state_dict(self.network.state_dict())
        if self.config.class_weights != "none":
            self._count(epoch, passes)
        self._renew_classifier(epoch)

    def loss(self, batch: Batch, stage: str) -> StepResult:  # noqa: ARG002
        """Computes the mean of the losses within and across the views.

        Args:
            batch: Training pairs.
            stage: The one stage, `train`.

        Returns:
            The loss; scalars are its terms and the mean squared distances of this epoch's k-means.
        """
        with JointBatchNorm():
            codes = self._codes(self.network.train(), _pair(batch))
        with torch.no_grad():
            frozen = self._codes(self.labeller.eval(), _pair(batch))
        loss, scalars = self._mdc(codes, frozen) if len(codes) == 1 else self._picie(codes, frozen)
        scalars["loss"] = loss
        for view, distance in enumerate(self.clustering.distance, start=1):
            scalars[f"kmeans_distance_{view}"] = distance
        return StepResult(loss, {name: value.detach().clone() for name, value in scalars.items()})

    def fit_clusters(self, passes: Passes) -> None:
        """Does nothing: centroids come with each epoch, and the official code scores with them."""

    @torch.no_grad()
    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns the network's codes of uncropped pixels, unit norm over C."""
        return normalize(self.network.eval()(batch.pixels))

    def classify(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Scores each cluster of view 1 by the dot product of code and centroid.

        Args:
            codes: (B, C, H / 4, W / 4), unit norm over C.

        Returns:
            (B, K, H / 4, W / 4); the official code upsamples these scores too.
        """
        if self.classifier is None:
            return self.clustering.logits(codes, 0)
        scores: Tensor = self.classifier(codes)
        return scores

    def _mdc(self, codes: list[Tensor], frozen: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (labels,) = self.clustering.label(frozen)
        (weights,) = self.clustering.weights(self.config.class_weights)
        return weighted_cross_entropy(self.classify(codes[0]), labels, weights), {}

    def _picie(self, codes: list[Tensor], frozen: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        within = across = codes[0].new_zeros(())
        for clustering, share in zip(self._levels(), self._shares(), strict=True):
            labels = clustering.label(frozen)
            terms = cross_view_terms(codes, labels, clustering, self.config.class_weights)
            within, across = within + share * terms.within, across + share * terms.across
        loss, scalars = (within + across) / 2, {"within": within, "across": across}
        if self.config.mse:
            scalars["mse"] = mean_squared_difference(*codes)
            loss = (loss + scalars["mse"]) / 2
        return loss, scalars

    def _codes(self, network: PyramidNetwork, pair: Pair) -> list[Tensor]:
        return [view_codes(network, pair, view) for view in range(self.num_views)]

    def _levels(self) -> list[ViewClusters]:
        return [self.clustering] if self.finer is None else [self.clustering, self.finer]

    def _shares(self) -> list[float]:
        if self.finer is None:
            return [1.0]
        coarse, fine = math.log(self.num_clusters), math.log(self.config.over_clusters)
        levelled, chosen = coarse / (coarse + fine), self.config.over_weight
        share = levelled if chosen is None else chosen
        return [1 - share, share]

    def _cluster(self, epoch: int, passes: Passes) -> None:
        """Runs every k-means on one walk, on codes with batch statistics."""
        clusterers = [
            [self._clusterer(level, view, epoch) for level in range(len(self._levels()))]
            for view in range(self.num_views)
        ]
        second = SecondStatistics(self.network)
        for batch in passes.crops(epoch, self.config.cluster_batch):
            self._feed(clusterers[0], 0, batch)
            if self.num_views > 1:
                with second.recording():
                    self._feed(clusterers[1], 1, batch)
        second.append()
        for view, own in enumerate(clusterers):
            for clustering, clusterer in zip(self._levels(), own, strict=True):
                clustering.centroids[view], _, clustering.distance[view] = clusterer.finish()

    def _clusterer(self, level: int, view: int, epoch: int) -> MiniBatchKMeans:
        (k, dim), device = self._levels()[level].centroids[view].shape, self.network.mean.device
        schedule = Schedule(self.config.init_batches, iterations=self.config.kmeans_iterations)
        key = (self.seed, self.name, "kmeans", epoch, level, view)
        return MiniBatchKMeans(k, dim, schedule, *key, device=device)

    def _feed(self, clusterers: list[MiniBatchKMeans], view: int, batch: Batch) -> None:
        with JointBatchNorm():
            codes = view_codes(self.network.train(), _pair(batch), view)
        # At the official sizes the first batches take 17 GB a view, so they wait in host memory.
        cells = codes.flatten(2).cpu() if clusterers[0].collecting else codes.flatten(2)
        for clusterer in clusterers:
            clusterer.feed(batch.ids, cells)

    def _count(self, epoch: int, passes: Passes) -> None:
        """Counts the cells of every cluster on one walk."""
        counts = [torch.zeros_like(level.counts) for level in self._levels()]
        for batch in passes.crops(epoch, self.config.cluster_batch):
            # Each image convolved by itself: in another batch its codes might be rounded otherwise.
            with JointBatchNorm():
                frozen = self._codes(self.labeller.eval(), _pair(batch))
            for level, clustering in enumerate(self._levels()):
                counts[level] += clustering.cells(frozen)
        for clustering, count in zip(self._levels(), counts, strict=True):
            clustering.counts.copy_(all_sum(count))

    @torch.no_grad()
    def _renew_classifier(self, epoch: int) -> None:
        if self.classifier is not None and self.classifier.bias is not None:
            generator = shared_generator(self.seed, self.name, "classifier", epoch)
            weight = torch.randn(self.classifier.weight.shape, generator=generator)
            self.classifier.weight.copy_(0.01 * weight)
            self.classifier.bias.zero_()


def view_codes(network: PyramidNetwork, pair: Pair, view: int) -> Float[Tensor, "B C h w"]:
    """Computes the codes of one view of a crop.

    Args:
        network: In the mode in which it is to run.
        pair: Both views.
        view: 0 crops pixels and 1 crops codes.

    Returns:
        (B, C, h, w), unit norm over C.
    """
    if view == 0:
        height, width = pair.second.shape[2:]
        return normalize(network(crop_and_flip(pair.first, pair.crop, pair.flip, (height, width))))
    codes = network(pair.second)
    height, width = codes.shape[2:]
    return normalize(crop_and_flip(codes, pair.crop, pair.flip, (height, width)))


def _pair(batch: Batch) -> Pair:
    if batch.pair is None:
        raise TypeError("PiCIE learns from Batch.pair, which this batch does not have")
    return batch.pair
