"""ACSeg: a small network proposes concepts for each image, modularity says how well they fit.

Frozen patch tokens -> the Adaptive Concept Generator turns a few shared prototypes into concepts of
this image -> every token joins its most similar concept, concepts without tokens are dropped ->
the regions of all training images are clustered into K groups. Only the generator learns, and
only from the modularity of each image's own token graph, so nothing but pixels enters.

The paper's full text and code are not public; where summaries and re-implementations leave a
choice open, the setting's description says what is assumed here.

Reference:
    Li et al., ACSeg: Adaptive Conceptualization for Unsupervised Semantic Segmentation, CVPR 2023,
    arXiv 2210.05944.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import one_hot

from usseg_ray.core.calibration import Choice, Facts
from usseg_ray.core.config import MethodConfig
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, FeatureSpec, StepResult
from usseg_ray.methods.base import Defaults, Method, Needs, ParamGroup, Passes
from usseg_ray.methods.parts.concept_generator import ConceptGenerator
from usseg_ray.methods.parts.regions import bounding_boxes, pool_regions, settled
from usseg_ray.methods.parts.rules import fixed, rate
from usseg_ray.methods.parts.whitening import Whitening
from usseg_ray.ops.attention import two_means_split
from usseg_ray.ops.kmeans import assign, fit_shared
from usseg_ray.ops.largest import argmax
from usseg_ray.ops.modularity import cosine, image_losses
from usseg_ray.ops.sampling import PointSample
from usseg_ray.settings.acseg import ACSegConfig


@dataclass(frozen=True)
class Regions:
    """The parts of a batch of images.

    Attributes:
        soft: (B, N, C) cosines of tokens and concepts.
        used: (B, C) whether any token joined the concept.
        foreground: (B, C) used and not background.
        vectors: (B, C, D) what describes each region; 0 where unused.
    """

    soft: Float[Tensor, "B N C"]
    used: Bool[Tensor, "B C"]
    foreground: Bool[Tensor, "B C"]
    vectors: Float[Tensor, "B C D"]


class ACSeg(Method):
    """Adaptive conceptualisation with the modularity loss.

    Args:
        config: The method's settings.
        features: What the backbone gives.
        num_clusters: K, the background cluster included if it is split off.
        seed: Keys initial weights, sample and k-means.

    Raises:
        UserError: `num_heads` does not divide the token dim, or attention is asked for in vain.
    """

    name: ClassVar[str] = "acseg"
    Config: ClassVar[type[MethodConfig]] = ACSegConfig
    defaults: ClassVar[Defaults] = Defaults(
        schedule={"train.epochs": 5, "train.steps_per_epoch": 500},
        embedded={"train.epochs": 2},
        textons={
            # Textons of one image share an offset (its light), which hides the graph's structure.
            "method.centre": True,
            # Their channels repeat each other from scale to scale, and waver within a texture.
            "method.whiten": 0.5,
            "method.context": 0.75,
            # In 30 steps the generator has only begun to learn where concepts lie.
            "method.settle": 10,
            # Heads that divide 15 dimensions; fewer and faster steps than 384 dimensions take.
            "method.norm": "pre",
            "method.num_blocks": 3,
            "method.num_heads": 3,
            "method.lr": 1e-2,
            "method.warmup_steps": 10,
        },
    )
    centroids_in: ClassVar[tuple[str, ...]] = ("centroids",)
    centroids: Tensor

    def __init__(
        self, config: ACSegConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        if features.dim % config.num_heads:
            divisors = [n for n in range(1, min(features.dim, 16) + 1) if features.dim % n == 0]
            raise UserError(
                f"method.num_heads = {config.num_heads} does not divide the backbone's token dim "
                f"{features.dim}. Choose one of {', '.join(map(str, divisors))}."
            )
        self.config = config
        self.whitening = Whitening(features.dim, config.whiten) if config.whiten else None
        self.patch_size = features.patch_size
        self.generator = ConceptGenerator(
            config, features.dim, shared_generator(seed, self.name, "weights")
        )
        self.splits_background = config.background == "split"
        self.without_centroid = int(self.splits_background)
        self.spherical = config.spherical
        self.num_groups = num_clusters - self.without_centroid
        self.register_buffer("centroids", torch.zeros(self.num_groups, features.dim))

    @classmethod
    def needs(cls, config: Any) -> Needs:  # noqa: ANN401
        """Needs attention to tell background from foreground, CLS tokens to describe regions."""
        return Needs(
            attention=config.background_score if config.background == "split" else None,
            crop_tokens=config.region_vector == "cls",
        )

    @classmethod
    def calibrated(cls, facts: Facts) -> tuple[Choice, ...]:
        """Keeps how far the generator walks; a short run has a smaller one, norms in front."""
        return (
            rate("method.lr", facts.steps, 0.25),
            fixed("method.warmup_steps", facts.steps // 25, "4 % of the steps, as published"),
            fixed("method.norm", "pre", "learns at this rate without a long warm-up"),
            fixed("method.num_blocks", 3, "a generator for few steps"),
        )

    @classmethod
    def untouched(cls, config: Any) -> frozenset[str]:  # noqa: ANN401, ARG003
        """Names what k-means on the regions reads alone."""
        return frozenset({"num_clusters", "method.max_regions"})

    def param_groups(self, stage: str) -> list[ParamGroup]:  # noqa: ARG002
        """Lists the generator's parameters, linear weights with decay and the rest without."""
        parameters = dict(self.generator.named_parameters())
        decayed = [
            f"{name}.weight"
            for name, module in self.generator.named_modules()
            if isinstance(module, nn.Linear)
        ]
        rest = [name for name in parameters if name not in decayed]
        return [
            ParamGroup(
                params=[parameters[name] for name in names],
                lr=self.config.lr,
                weight_decay=weight_decay,
                clip_norm=self.config.clip_norm,
                warmup_steps=self.config.warmup_steps,
            )
            for names, weight_decay in ((decayed, self.config.weight_decay), (rest, 0.0))
        ]

    def on_epoch_start(self, stage: str, epoch: int, passes: Passes) -> None:  # noqa: ARG002
        """Measures the tokens before the first step, where they are to be whitened."""
        if self.whitening is not None and epoch == 0:
            self.whitening.fit(batch.features.tokens for batch in passes())

    def loss(self, batch: Batch, stage: str) -> StepResult:  # noqa: ARG002
        """Computes the mean over images of minus the soft modularity.

        Args:
            batch: Training crops.
            stage: The one stage, `train`.

        Returns:
            The loss; scalars `concepts_used` (mean per image), `prototypes_unused` (share of
            prototypes that no image of the batch uses) and `max_cosine` (mean over tokens of the
            cosine to the own concept).

        Reference:
            arXiv 2210.05944, modularity loss.
        """
        tokens = self._tokens(self.describe(batch))
        soft = cosine(tokens, self.generator(tokens))
        loss = image_losses(
            tokens,
            soft,
            gamma=self.config.gamma,
            keep_loops=self.config.keep_loops,
            tanh_scale=self.config.tanh_scale,
        ).mean()
        best, hard = soft.detach().max(2)
        used = one_hot(hard, soft.shape[2]).any(1)
        scalars = {
            "loss": loss.detach(),
            "concepts_used": used.sum(1).float().mean(),
            "prototypes_unused": 1 - used.any(0).float().mean(),
            "max_cosine": best.mean(),
        }
        return StepResult(loss, scalars)

    @torch.no_grad()
    def fit_clusters(self, passes: Passes) -> None:
        """Clusters the regions of all training images into K groups, or K - 1 and background.

        Args:
            passes: Fresh walks over this worker's training images.

        Raises:
            UserError: The images give fewer distinct regions than groups.

        Reference:
            arXiv 2210.05944, concept classifier by k-means.
        """
        sample = PointSample(
            self.centroids.shape[1], self.config.max_regions, self.centroids.device
        )
        for batch in passes():
            regions = self._regions(batch)
            for name, rows, keep in zip(
                batch.ids, regions.vectors, regions.foreground, strict=True
            ):
                sample.add(rows[keep], self.seed, self.name, "regions", name)
        result = fit_shared(
            sample,
            self.num_groups,
            self.seed,
            spherical=self.config.spherical,
            restarts=self.config.restarts,
            noun="regions",
        )
        self.centroids.copy_(result.centroids)

    @torch.no_grad()
    def members(self, batch: Batch, cluster: int) -> Float[Tensor, "n C"]:
        """Returns the vectors of the regions that are in a cluster."""
        regions = self._regions(batch)
        return regions.vectors[regions.used & (self._clusters(regions) == cluster)]

    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns the backbone's tokens, whitened if so set: the generator makes no codes."""
        tokens = batch.features.tokens.detach()
        return tokens if self.whitening is None else self.whitening(tokens)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Float[Tensor, "B K h w"]:
        """Scores each cluster by the cosine to the best of its concepts in the image.

        A cluster without a concept in the image gets -1, the least cosine. Upsampling these scores
        equals upsampling the cosines of all used concepts and taking the best one's cluster, but
        for tokens between two concepts of the same cluster.

        Args:
            batch: Images.

        Returns:
            (B, K, h, w) cosines.
        """
        regions = self._regions(batch)
        cosines = regions.soft.mT.masked_fill(~regions.used[:, :, None], -1.0)
        owner = self._clusters(regions)[:, :, None].expand_as(cosines)
        size, _, tokens = cosines.shape
        scores = cosines.new_full((size, self.num_clusters, tokens), -1.0)
        scores.scatter_reduce_(1, owner, cosines, "amax")
        return scores.view(*scores.shape[:2], *batch.features.tokens.shape[2:])

    def _tokens(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B N D"]:
        """Returns the tokens that concepts are found on, less their image's mean if so set."""
        tokens = maps.detach().flatten(2).mT
        return tokens - tokens.mean(1, keepdim=True) if self.config.centre else tokens

    def _regions(self, batch: Batch) -> Regions:
        maps = self.encode(batch)
        tokens = self._tokens(maps)
        soft = cosine(tokens, settled(tokens, self.generator(tokens), self.config.settle))
        hard = argmax(soft, 2)
        # Regions keep their own mean even if concepts were found on centred tokens: what they have
        # in common within an image still tells images apart.
        sums, counts = pool_regions(maps.flatten(2).mT, hard, soft.shape[2])
        used = counts > 0
        foreground = self._foreground(batch, hard, used) if self.splits_background else used
        vectors = sums / counts.clamp(min=1)[:, :, None]
        if self.config.region_vector == "cls":
            vectors = self._crop_vectors(batch, hard, used)
        return Regions(soft, used, foreground, vectors)

    def _crop_vectors(
        self, batch: Batch, hard: Int64[Tensor, "B N"], used: Bool[Tensor, "B C"]
    ) -> Float[Tensor, "B C D"]:
        if batch.crop_tokens is None:
            raise TypeError("method.region_vector = 'cls' needs Batch.crop_tokens")
        grid = hard.view(len(hard), *batch.features.tokens.shape[2:])
        owners = used.nonzero()
        images, concepts = owners.unbind(1)
        boxes = self.patch_size * bounding_boxes(grid[images] == concepts[:, None, None])
        vectors = batch.features.tokens.new_zeros(*used.shape, self.centroids.shape[1])
        vectors[owners[:, 0], owners[:, 1]] = batch.crop_tokens(
            torch.cat([images[:, None], boxes], 1)
        )
        return vectors

    def _foreground(
        self, batch: Batch, hard: Int64[Tensor, "B N"], used: Bool[Tensor, "B C"]
    ) -> Bool[Tensor, "B C"]:
        saliency = batch.features.saliency
        if saliency is None:
            raise TypeError("method.background = 'split' needs FeatureMap.saliency")
        sums, counts = pool_regions(saliency.flatten(1)[:, :, None], hard, used.shape[1])
        scores = sums[:, :, 0]
        if self.config.background_pool == "mean":
            scores = scores / counts.clamp(min=1)
        return two_means_split(scores, used)

    def _clusters(self, regions: Regions) -> Int64[Tensor, "B C"]:
        rows = regions.vectors.flatten(0, 1)
        groups = assign(rows, self.centroids, spherical=self.config.spherical)
        labels = groups.view(regions.used.shape)
        return torch.where(regions.foreground, labels + 1, 0) if self.splits_background else labels
