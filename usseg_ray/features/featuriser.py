"""From the reader's `Images` to a method's `Batch`: pixels to the device, and their features.

The frozen backbone runs here and nowhere else. What a method did not declare in `needs` is neither
computed nor there. Features that a store may hold are rounded as it rounds them: storing them
changes no score.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from usseg_ray.core.config import JitterConfig
from usseg_ray.core.keys import key_seed
from usseg_ray.core.types import Batch, FeatureMap, Images, Needs, Pair, Rows, Step
from usseg_ray.features.backbones import Backbone
from usseg_ray.ops.photometric import DRAWN, drawn_view, photometric_views

CROPS_PER_PASS = 32


@runtime_checkable
class Stored(Protocol):
    """Features that were computed before."""

    def has(self, split: str, view: str) -> bool:
        """Says whether features of a split, shown in one way, are kept."""

    def __call__(self, rows: Rows, needs: Needs) -> FeatureMap | None:
        """Gives those of rows, on the device that computes; `None` where none are kept."""

    def beside(
        self, rows: Rows, needs: Needs, what: str, compute: Callable[[], FeatureMap]
    ) -> FeatureMap:
        """Gives features of a few rows shown in yet another way, computed the first time alone.

        Args:
            rows: Of which the images were made.
            needs: What is read beside tokens.
            what: Names how they are shown.
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
        stored: Stored | None = None,
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

    def __call__(self, images: Images) -> Batch:
        """Computes a batch to be clustered or predicted.

        A method that needs no features gets an empty feature map.
        """
        return self._batch(images)

    @torch.no_grad()
    def shown_otherwise(self, images: Images, rows: Rows, what: str) -> Batch:
        """Computes a batch of a few images that the reader did not make; kept with stored rows.

        Args:
            images: As they are shown.
            rows: Of which they were made.
            what: Names how they are shown; with the rows it decides their pixels.
        """
        if self.stored is None or not self.needs.features:
            return self._batch(images)
        pixels = self._pixels(images.pixels)
        features = self.stored.beside(
            rows, self.needs, what, lambda: self._features(self._normalise(pixels), self.needs)
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
            nothing = FeatureMap(pixels.new_zeros(len(pixels), 0, 1, 1))
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
        view = drawn_view(images.rows.view, self.view_draws, jitter)
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
        if rows is None:
            return self._features(self._normalise(pixels), needs)
        found = self.stored(rows, needs) if self.stored is not None else None
        return found or _rounded(self._features(self._normalise(pixels), needs))

    def needs_pixels(self, split: str, view: str, *, training: bool) -> bool:
        """Says whether anybody looks at the pixels of a split that is shown in one way.

        Args:
            split: The split.
            view: As in `types.Rows`.
            training: Whether it is shown in training, where a method may want a second view.
        """
        stored, jitter = self.stored, self.needs.photometric
        if stored is None or not self.needs.features or self.needs.crop_tokens:
            return True
        if not stored.has(split, view):
            return True
        if not training or jitter is None:
            return False
        drawn = drawn_view(view, self.view_draws, jitter)
        return not (self.view_draws and stored.has(split, drawn))

    def _pixels(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return pixels.to(self.device, non_blocking=True).float() / 255

    def _pair(self, images: Images) -> Pair | None:
        if images.first is None or images.geometry is None:
            return None
        geometry = images.geometry.to(self.device)
        return Pair(
            first=self._pixels(images.first),
            second=self._pixels(images.pixels),
            crop=geometry[:, :3],
            flip=geometry[:, 3] > 0,
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
