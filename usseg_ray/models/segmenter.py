"""A model at work: images of any size in, label maps, confidence and probabilities out."""

import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from usseg_ray import methods
from usseg_ray.core.config import BackboneConfig, build_config
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import write_whole
from usseg_ray.core.records import DamagedError
from usseg_ray.core.types import Batch, Images
from usseg_ray.core.views import Frame
from usseg_ray.data.transforms import frame_image
from usseg_ray.engine.model import Model, build_model
from usseg_ray.features.store.recipe import weights_digest
from usseg_ray.features.weights import check_weights
from usseg_ray.models.description import Description
from usseg_ray.models.earlier import is_earlier, read_earlier
from usseg_ray.models.folder import read_model, settings_of
from usseg_ray.models.names import IGNORED, Names
from usseg_ray.ops.context import averaged
from usseg_ray.ops.principal_masks import principal_masks
from usseg_ray.scoring.anyup_file import open_anyup
from usseg_ray.scoring.crf import open_crf
from usseg_ray.scoring.prediction import CRF, Refiners
from usseg_ray.scoring.protocols import PLAIN, Refinement

_SEGMENT_PSI = 0.4
"""Likeness within a segment; more leaves more of an image in none."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a model finds in an image.

    Attributes:
        mask: (H, W) int64, the output of every pixel: merged clusters are one, ignored ones
            `names.ignored`.
        confidence: (H, W) float32 in [0, 1], the probability of the output that was chosen: of
            merged clusters, the sum.
        scores: (K, H, W) float32, the probability of every cluster, if it was asked for; a cluster
            that is merged into another has 0, and that one the sum.
        names: What outputs are called.
    """

    mask: Int64[np.ndarray, "H W"]
    confidence: Float32[np.ndarray, "H W"]
    scores: Float32[np.ndarray, "K H W"] | None
    names: Names

    def save(self, path: Path) -> None:
        """Writes the mask as a PNG of one byte a pixel, with the colours of the names.

        Raises:
            UserError: One byte does not hold as many clusters.
        """
        if len(self.names) > IGNORED:
            raise UserError(
                f"{path}: a PNG with colours holds {IGNORED} clusters and the model has "
                f"{len(self.names)}; merge some (names.yaml)."
            )
        picture = Image.fromarray(self.mask.astype(np.uint8), mode="P")
        picture.putpalette(self.names.palette.tobytes())
        write_whole(path, lambda stream: picture.save(stream, "PNG"))


class Segmenter:
    """A trained method that segments images of any size; see `open`.

    Args:
        description: What it is.
        model: Method and backbone, loaded, on their device.
        refinement: What is made of scores before anything is found in them.
        anyup: File of AnyUp's weights, as `anyup_file.named_anyup` says it if unset.

    Attributes:
        description: What it is.
        model: Method and backbone.
        names: What its clusters are called.
        num_clusters: K.
    """

    def __init__(
        self,
        description: Description,
        model: Model,
        refinement: Refinement = PLAIN,
        anyup: str | None = None,
    ) -> None:
        model.method.eval()
        self.description, self.model = description, model
        self.names, self.num_clusters = description.names, description.num_clusters
        self._groups = self.names.groups
        self._joined = np.unique(self._groups)
        self._refinement, self._held = refinement, ExitStack()
        weakref.finalize(self, self._held.close)
        crf = self._crf() if "crf" in refinement else None
        upsampler = open_anyup((refinement,), model.featurise.needs, model.featurise.device, anyup)
        self._predictor = model.predictor(refining=Refiners((refinement,), crf, upsampler))

    @classmethod
    def open(
        cls,
        folder: Path,
        device: torch.device | None = None,
        refinement: Refinement = PLAIN,
        anyup: str | None = None,
    ) -> Self:
        """Opens a model.

        Args:
            folder: As `models.folder.save_model` wrote it, or as earlier versions did.
            device: Where to compute; a GPU if there is one and this is unset.
            refinement: What is made of scores before anything is found in them.
            anyup: File of AnyUp's weights, as `anyup_file.named_anyup` says it if unset.

        Raises:
            UserError: It is missing, damaged, of another version, or the backbone's weights are
                out of reach or others.
        """
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        description, state = (read_earlier if is_earlier(folder) else read_model)(folder)
        _check_reach(description, folder)
        method_class = methods.get(description.method)
        layers = [settings_of(description, folder), method_class.defaults.trained]
        model = build_model(build_config(method_class.Config, layers), method_class, device)
        _check_backbone(model, description, folder)
        try:
            model.method.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise DamagedError(
                f"{folder} is damaged: its weights are not of its settings ({reason}). Take it "
                "from the run again."
            ) from None
        return cls(description, model, refinement, anyup)

    @torch.no_grad()
    def segment(self, image: UInt8[np.ndarray, "H W 3"], *, scores: bool = False) -> Segmentation:
        """Segments an image.

        Args:
            image: (H, W, 3) uint8, RGB. It is seen with the short side that trials were scored
                at, through windows where it is longer.
            scores: Whether to give the probabilities of all clusters, too.
        """
        (found,) = self.segment_each([image], scores=scores)
        return found

    @torch.no_grad()
    def segment_each(
        self, images: Sequence[UInt8[np.ndarray, "H W 3"]], *, scores: bool = False
    ) -> Iterator[Segmentation]:
        """Segments images, those that are seen at one size together.

        Args:
            images: Of any sizes, each as `segment` takes one.
            scores: As of `segment`.

        Yields:
            What was found in each, in their order, made when it is asked for: at the size of a
            photograph one is large.
        """
        for image, logits in zip(images, self._logits(images), strict=True):
            size = (image.shape[0], image.shape[1])
            joined = self.join(logits)
            chosen, confidence = _chosen(joined, size)
            found = _upsampled(joined[None], size)[0].softmax(0) if scores else None
            yield Segmentation(
                self.outputs(chosen.cpu().numpy()),
                confidence.cpu().numpy(),
                None if found is None else self._apart(found.cpu().numpy()),
                self.names,
            )

    @torch.no_grad()
    def segments(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
        """Splits an image into principal masks of its backbone's tokens; no training takes part.

        Args:
            image: (H, W, 3) uint8, RGB; seen squashed to a square.

        Returns:
            (H, W) numbers from 1 on; 0 in none.

        Raises:
            UserError: The method has no frozen backbone.
        """
        if not self.model.featurise.needs.features:
            raise UserError(
                f"segments are of a frozen backbone's tokens, and {self.description.method!r} "
                "reads none: take a model of another method."
            )
        tokens = self.squashed(image).features.tokens
        return segments_of(tokens, (image.shape[0], image.shape[1]))

    @torch.no_grad()
    def squashed(self, image: UInt8[np.ndarray, "H W 3"]) -> Batch:
        """Shows an image to the backbone, squashed to the square that the model sees."""
        shown = self.description.preprocessing
        pixels = torch.from_numpy(frame_image(image, Frame(shown.size, "squash", shown.filter)))
        return self.model.featurise(Images(("image",), pixels[None]))

    def _logits(self, images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> list[Float[Tensor, "K h w"]]:
        """Scores images, in a batch for each size at which some are seen."""
        shown = self.description.preprocessing
        frame = Frame(shown.size, "whole", shown.filter)
        pixels = [torch.from_numpy(frame_image(image, frame)) for image in images]
        sizes = defaultdict[torch.Size, list[int]](list)
        for number, one in enumerate(pixels):
            sizes[one.shape].append(number)
        found = dict[int, Tensor]()
        for numbers in sizes.values():
            seen = Images(tuple(map(str, numbers)), torch.stack([pixels[n] for n in numbers]))
            logits = self._predictor.predict(seen).logits(self._refinement)
            found.update(zip(numbers, logits, strict=True))
        return [found[number] for number in range(len(images))]

    def join(self, logits: Float[Tensor, "K h w"]) -> Float[Tensor, "M h w"]:
        """Adds up the probabilities of clusters that are merged, of which M are left.

        Args:
            logits: What the softmax over K makes probabilities of.

        Returns:
            The same of the M; `outputs` says which they are.
        """
        if len(self._joined) == len(self._groups):
            return logits
        parts = [torch.from_numpy(np.flatnonzero(self._groups == one)) for one in self._joined]
        return torch.stack([logits[part.to(logits.device)].logsumexp(0) for part in parts])

    def outputs(self, chosen: Int64[np.ndarray, "*size"]) -> Int64[np.ndarray, "*size"]:
        """Makes a label map of what `join` left one of outputs."""
        return self.names.apply(self._joined[chosen])

    def _apart(self, probabilities: Float32[np.ndarray, "M H W"]) -> Float32[np.ndarray, "K H W"]:
        """Gives what `join` left the places of K clusters; one that went into another has 0."""
        if len(self._joined) == len(self._groups):
            return probabilities
        found = np.zeros((len(self._groups), *probabilities.shape[1:]), np.float32)
        found[self._joined] = probabilities
        return found

    @torch.no_grad()
    def probabilities(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[Tensor, "B K h w"]:
        """Finds the probabilities of clusters in images as they are, not resized.

        Args:
            images: (B, H, W, 3) uint8, RGB, no side shorter than the model sees.

        Returns:
            (B, K, h, w) float32 on the model's device, at the resolution that the method scores
            at, mostly that of the patches; at that of the pixels where a refiner makes it so, or
            larger images are seen through windows.
        """
        pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
        seen = Images(tuple(map(str, range(len(images)))), pixels)
        return self._predictor.predict(seen).logits(self._refinement).softmax(1)

    def _crf(self) -> CRF:
        """Opens the CRF of the device, for as long as this lives."""
        return self._held.enter_context(open_crf(self.model.featurise.device.type))


def segments_of(
    tokens: Float[Tensor, "1 D h w"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """Splits an image into principal masks of its tokens.

    Args:
        tokens: Of a frozen backbone.
        size: (H, W) of the map.

    Returns:
        (H, W) numbers from 1 on; 0 in none.
    """
    masks = principal_masks(averaged(tokens), _SEGMENT_PSI, centre=True)
    chosen, _ = _chosen(one_hot(masks[0]).movedim(2, 0).float(), size)
    return np.asarray(chosen.to(torch.uint8).cpu().numpy())


def _check_reach(description: Description, folder: Path) -> None:
    """Refuses a model whose backbone's weights are nowhere to be had."""
    known = description.backbone
    if known.file is not None and not (folder / known.file).is_file() and not is_earlier(folder):
        raise DamagedError(
            f"{folder} is damaged: {known.file}, the weights of its backbone, is missing. Take the "
            "model from the run, or the place that it was copied from, again."
        )
    if known.file is None and known.sha256 is not None:
        try:
            check_weights(BackboneConfig(name=known.name))
        except UserError:
            raise UserError(
                f"{folder} reads {known.name}, whose weights are not in timm's cache and cannot be "
                "fetched. Connect once, or bring the cache (HF_HOME) of a machine that has them."
            ) from None


def _check_backbone(model: Model, description: Description, folder: Path) -> None:
    known, backbone = description.backbone, model.featurise.backbone
    if backbone is None or known.sha256 is None or weights_digest(backbone) == known.sha256:
        return
    where = folder / known.file if known.file else f"timm's {known.name}"
    raise DamagedError(
        f"{where}: not the backbone weights that the model {folder} was trained on (sha256 "
        f"{known.sha256[:12]}). Put those in their place, or train again."
    )


def _upsampled(logits: Float[Tensor, "B K h w"], size: tuple[int, int]) -> Tensor:
    return interpolate(logits, size, mode="bilinear", align_corners=False)


def _chosen(logits: Float[Tensor, "K h w"], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Finds the likeliest cluster of every pixel, and its probability.

    One cluster at a time: all of them at the size of a photograph take gigabytes.
    """
    best = torch.full(size, torch.finfo(torch.float32).min, device=logits.device)
    chosen = torch.zeros(size, dtype=torch.int64, device=logits.device)
    total = torch.zeros_like(best)
    for cluster, own in enumerate(logits[:, None, None]):
        here = _upsampled(own, size)[0, 0]
        chosen.masked_fill_(here > best, cluster)
        highest = torch.maximum(best, here)
        total.mul_(best.sub_(highest).exp_()).add_(here.sub_(highest).exp_())
        best = highest
    return chosen, 1 / total
