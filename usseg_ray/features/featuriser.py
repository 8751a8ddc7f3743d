"""From the reader's `Images` to a method's `Batch`: pixels to the device, and their features.

The frozen backbone runs here and nowhere else. What a method did not declare in `needs` is neither
computed nor there. Features that a store may hold are rounded as it rounds them: storing them
changes no score.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from usseg_ray.core.config import JitterConfig
from usseg_ray.core.keys import key_seed
from usseg_ray.core.types import Batch, FeatureMap, Images, Needs, Pair, Rows, Step
from usseg_ray.core.views import FixedView
from usseg_ray.features.backbones import Backbone
from usseg_ray.ops.photometric import DRAWN, photometric_views
from usseg_ray.ops.transfer import one_ahead, sent

CROPS_PER_PASS = 32


@runtime_checkable
class FeatureFinder(Protocol):
    """Finds features that were computed before."""

    @property
    def views(self) -> Collection[tuple[str, FixedView]]:
        """Splits and views of which features are stored."""

    def __call__(self, rows: Rows, needs: Needs) -> FeatureMap | None:
        """Gives those of rows, on the device that computes; `None` where none are stored."""

    def begin(self, rows: Rows, needs: Needs) -> Callable[[], FeatureMap] | None:
        """Begins to copy those of rows to the device; the result gives what a call would."""

    def variant(
        self, rows: Rows, needs: Needs, name: str, compute: Callable[[], FeatureMap]
    ) -> FeatureMap:
        """Gives features of a few rows in a variant of their view, computed the first time alone.

        Args:
            rows: Of which the images were made.
            needs: What is read beside tokens.
            name: Of the variant.
            compute: Computes them.
        """


class Featuriser:
    """Turns the reader's images into a method's batches on one device.

    Args:
        backbone: The frozen backbone; `None` where the method needs no features.
        needs: What the method asks for.
        device: Where to compute.
        autocast: Whether the backbone computes in bfloat16.
        seed: Keys photometric views.
        crop_size: Side that boxes of `Batch.crop_tokens` are resized to, pixels.
        stored: Finds features that were computed before.
        view_draws: Photometric views of a row that are drawn once and for all; 0 draws new ones.
    """

    def __init__(
        self,
        backbone: Backbone | None,
        needs: Needs,
        device: torch.device,
        *,
        autocast: bool,
        seed: int = 0,
        crop_size: int = 224,
        stored: FeatureFinder | None = None,
        view_draws: int = 0,
    ) -> None:
        self.backbone = backbone.to(device) if backbone is not None else None
        self.needs = needs
        self.device = device
        self.autocast = autocast
        self.seed = seed
        self.crop_size = crop_size
        self.stored = stored
        self.view_draws = view_draws

    def ahead(self, batches: Iterable[Images]) -> Iterator[Images]:
        """Walks batches, on a GPU with the stored features of the next one on their way to it.

        Rows are read by this thread, which has queued the work on the batch before by then.
        """
        if self.device.type != "cuda" or self.stored is None or not self.needs.storable:
            return iter(batches)
        return one_ahead(map(self.begun, batches))

    def begun(self, images: Images) -> Images:
        """Begins to copy the stored features that a batch of these images will ask for first."""

        def begin(rows: Rows | None, needs: Needs) -> Rows | None:
            if rows is None or self.stored is None:
                return rows
            return replace(rows, begun=self.stored.begin(rows, needs))

        rows, positive = begin(images.rows, self.needs), begin(images.positive_rows, Needs())
        return replace(images, rows=rows, positive_rows=positive)

    def __call__(self, images: Images) -> Batch:
        """Computes a batch to be clustered or predicted.

        A method that needs no features gets an empty feature map.
        """
        return self._batch(images)

    @torch.no_grad()
    def variant(self, images: Images, rows: Rows, name: str) -> Batch:
        """Computes a batch of a few images in a variant that the reader did not make.

        Its features are stored with those of the rows, where these are.

        Args:
            images: The variants.
            rows: Of which they were made.
            name: Of the variant; with the rows it decides the pixels.
        """
        if self.stored is None or not self.needs.storable:
            return self._batch(images)
        pixels = self._pixels(images.pixels)
        features = self.stored.variant(
            rows, self.needs, name, lambda: self._features(self._normalise(pixels), self.needs)
        )
        return self._assembled(images, pixels, features)

    @torch.no_grad()
    def crops(self, images: Images) -> Batch:
        """Computes a batch of training crops with its pair of views, where the method wants one."""
        return replace(self._batch(images), pair=self._pair(images))

    @torch.no_grad()
    def training(self, images: Images, stage: str, step: Step) -> Batch:
        """Computes a batch to learn from: with the views and neighbours that the method wants.

        Args:
            images: Training crops, with whatever the reader was asked for.
            stage: Keys, together with step and image, the photometric views.
            step: Where training stands.
        """
        batch = self._batch(images)
        augmented = positive = None
        if self.needs.photometric is not None:
            key = (self.seed, "photometric", stage, step.index)
            augmented = self._augmented(images, batch.pixels, self.needs.photometric, key)
        if images.positive is not None:
            seen = self._pixels(images.positive)
            positive = self._known(images.positive_rows, seen, Needs())
        return replace(
            batch, step=step, augmented=augmented, positive=positive, pair=self._pair(images)
        )

    @torch.no_grad()
    def _batch(self, images: Images) -> Batch:
        pixels = self._pixels(images.pixels)
        if not self.needs.features:
            nothing = FeatureMap(pixels.new_zeros(pixels.shape[0], 0, 1, 1))
            return Batch(images.ids, pixels, nothing)
        return self._assembled(images, pixels, self._known(images.rows, pixels, self.needs))

    def _assembled(
        self, images: Images, pixels: Float[Tensor, "B 3 H W"], features: FeatureMap
    ) -> Batch:
        if not self.needs.crop_tokens:
            return Batch(images.ids, pixels, features)

        def crop_tokens(boxes: Int64[Tensor, "n 5"]) -> Float[Tensor, "n D"]:
            return self._crop_tokens(self._normalise(pixels), boxes)

        return Batch(images.ids, pixels, features, crop_tokens=crop_tokens)

    def _augmented(
        self,
        images: Images,
        pixels: Float[Tensor, "B 3 H W"],
        jitter: JitterConfig,
        key: tuple[int | str, ...],
    ) -> FeatureMap:
        """Finds or computes the features of a photometric view of each image."""
        if not self.view_draws or images.rows is None:
            views = photometric_views(self._normalise(pixels), images.ids, jitter, *key)
            return self._features(views, Needs())
        draws = [key_seed(*key, name) % self.view_draws for name in images.ids]
        view = images.rows.view.recoloured(self.view_draws, jitter)
        rows = replace(images.rows, view=view, draws=torch.tensor(draws))
        if self.stored is not None:
            found = self.stored(rows, Needs())
            if found is not None:
                return found
        crops = images.rows.crops.tolist()
        shown = [
            photometric_views(one, [f"{name}/{crop}"], jitter, DRAWN, draw)
            for one, name, crop, draw in zip(
                self._normalise(pixels).split(1), images.ids, crops, draws, strict=True
            )
        ]
        return _rounded(self._features(torch.cat(shown), Needs()))

    def _known(
        self, rows: Rows | None, pixels: Float[Tensor, "B 3 H W"], needs: Needs
    ) -> FeatureMap:
        """Finds stored features, or computes them, and rounds what could be stored."""
        if rows is None or not needs.storable:
            return self._features(self._normalise(pixels), needs)
        if rows.begun is not None:
            return rows.begun()
        found = self.stored(rows, needs) if self.stored is not None else None
        return found or _rounded(self._features(self._normalise(pixels), needs))

    @property
    def without_pixels(self) -> frozenset[tuple[str, FixedView]]:
        """Splits and views of which everything that is asked for is stored."""
        if self.stored is None or not self.needs.storable or self.needs.crop_tokens:
            return frozenset()
        return frozenset(one for one in self.stored.views if self._views_stored(*one))

    def _views_stored(self, split: str, view: FixedView) -> bool:
        """Says whether photometric views of training crops are stored too, where there are any."""
        jitter = self.needs.photometric
        if self.stored is None or jitter is None or view.crops is None:
            return True
        return (split, view.recoloured(self.view_draws, jitter)) in self.stored.views

    def _pixels(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return sent(pixels, self.device).float() / 255

    def _pair(self, images: Images) -> Pair | None:
        if images.first is None or images.geometry is None:
            return None
        return Pair(
            first=self._pixels(images.first),
            second=self._pixels(images.pixels),
            crop=images.geometry[:, :3],
            flip=images.geometry[:, 3] > 0,
        )

    def _normalise(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return self._frozen().normalise(pixels)

    def _features(self, normalised: Float[Tensor, "B 3 H W"], needs: Needs) -> FeatureMap:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            features: FeatureMap = self._frozen()(normalised, needs)
        return features

    @torch.no_grad()
    def _crop_tokens(
        self, normalised: Float[Tensor, "B 3 H W"], boxes: Int64[Tensor, "n 5"]
    ) -> Float[Tensor, "n D"]:
        side = (self.crop_size, self.crop_size)
        tokens = []
        for portion in boxes.split(CROPS_PER_PASS):
            crops = [
                interpolate(
                    normalised[image : image + 1, :, top:bottom, left:right],
                    size=side,
                    mode="bilinear",
                    antialias=True,
                )
                for image, left, top, right, bottom in portion.tolist()
            ]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                tokens.append(self._frozen().cls_tokens(torch.cat(crops)))
        return torch.cat(tokens)

    def _frozen(self) -> Backbone:
        if self.backbone is None:
            raise TypeError("a method that needs no features has no backbone")
        return self.backbone


def _rounded(features: FeatureMap) -> FeatureMap:
    """Rounds features to float16, which the store keeps them in; what does not fit stays."""

    def part(values: Tensor) -> Tensor:
        halved = values.half()
        return halved.float().where(halved.isfinite(), values)

    return FeatureMap(
        part(features.tokens),
        None if features.saliency is None else part(features.saliency),
        None if features.local is None else part(features.local),
    )
