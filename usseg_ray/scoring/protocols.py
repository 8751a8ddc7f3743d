"""What a score is measured under: two scores compare only where their protocols are equal.

Protocols are data. One is named by `protocol` in a run's settings, or by `evaluate --protocol`; its
stamp, which also says data set, split and backbone, goes with every score.
"""

from dataclasses import dataclass
from typing import Literal

from usseg_ray.core.config import Config, MethodConfig
from usseg_ray.core.errors import UserError, unknown_name
from usseg_ray.core.views import Crop, Filter, Frame

REFINERS = ("flip", "sliding", "anyup", "guided", "crf")
"""What may follow a prediction, in this order: scores of the mirror image are taken in, those of
overlapping windows, pixels become means of patches that are like them (`ops.anyup`), scores are
made to follow the image's edges (`ops.guided`), and a fully connected CRF sharpens the result."""


@dataclass(frozen=True)
class Refinement:
    """Refiners applied together; each combination has score columns of its own.

    Attributes:
        refiners: Names, in the order of `REFINERS`; none for the plain prediction.
    """

    refiners: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Refinement":
        """Reads a combination such as `flip+crf`.

        Raises:
            UserError: A refiner is unknown or named twice; says those that there are.
        """
        names = text.split("+")
        if set(names) - set(REFINERS) or len(set(names)) < len(names):
            raise UserError(
                f"--refine {text}: a combination of {', '.join(REFINERS)}, each at most once, such "
                "as flip or flip+crf."
            )
        return cls(tuple(name for name in REFINERS if name in names))

    def __contains__(self, refiner: str) -> bool:
        return refiner in self.refiners

    def __str__(self) -> str:
        return "+".join(self.refiners) or "no refiner"

    @property
    def prefix(self) -> str:
        """What its score names begin with; nothing for the plain prediction."""
        return "".join(f"{name}_" for name in self.refiners)[:-1] + "." if self.refiners else ""


PLAIN = Refinement()


@dataclass(frozen=True)
class Protocol:
    """How a split is scored.

    Attributes:
        name: As in `protocol` and `--protocol`.
        summary: What it is for, or whose it is.
        size: Short side of the frame, pixels; `data.eval_size` if unset.
        crop: What of an image counts; `whole` images are seen through square windows, and each of
            their labels counts at its own resolution.
        filter: How images are resampled.
        classes: Number of classes that the data must have, where it is for one data set.
        clusters: Whether K is the number of classes, or anything.
        matching: How clusters find classes for the score that counts.
        upsampled: What is brought to the size of the frame: cluster scores, or, where a method
            predicts from codes, codes, which are classified there.
        refinements: What `evaluate` reports beside the plain prediction.
    """

    name: str
    summary: str
    size: int | None = None
    crop: Crop = "centre"
    filter: Filter = "bilinear"
    classes: int | None = None
    clusters: Literal["classes", "any"] = "classes"
    matching: Literal["one-to-one", "merged"] = "one-to-one"
    upsampled: Literal["scores", "codes"] = "scores"
    refinements: tuple[Refinement, ...] = ()

    @property
    def headline(self) -> str:
        """Name of the score that counts; `evaluate` shows it first, sweeps rank by `unsup_miou`."""
        return "merged_miou" if self.matching == "merged" else "unsup_miou"

    def frame(self, size: int) -> Frame:
        """Says how images are shown, where `data.eval_size` is `size`."""
        return Frame(self.size or size, self.crop, self.filter)

    def check(self, num_clusters: int, num_classes: int) -> None:
        """Checks that it is defined for a number of clusters and of classes.

        Raises:
            UserError: It is not; names a protocol that is.
        """
        if self.classes not in (None, num_classes):
            raise UserError(
                f"protocol {self.name} is for {self.classes} classes, and the data has "
                f"{num_classes}. See docs/protocols.md; {DEFAULT} takes any."
            )
        if self.clusters == "classes" and num_clusters != num_classes:
            raise UserError(
                f"protocol {self.name} is for K = {num_classes}, the number of classes, and K is "
                f"{num_clusters}. Use centre-crop, full-resolution or over-clustered."
            )
        if self.matching == "merged" and num_clusters <= num_classes:
            raise UserError(
                f"protocol {self.name} is for K above {num_classes}, the number of classes, and K "
                f"is {num_clusters}. {DEFAULT} takes any."
            )


_FLIP, _FLIP_CRF = Refinement(("flip",)), Refinement(("flip", "crf"))
_CRF = Refinement(("crf",))
_SLIDING = Refinement(("sliding",))

DEFAULT = "centre-crop"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            DEFAULT, "the default: the centre square at short side data.eval_size", clusters="any"
        ),
        Protocol(
            "stego-320",
            "STEGO, HP, SmooSeg and CAUSE on COCO-Stuff and Cityscapes, STEGO and HP on Potsdam",
            size=320,
            filter="nearest",
            upsampled="codes",
            refinements=(_FLIP, _FLIP_CRF),
        ),
        Protocol(
            "stego-322",
            "as stego-320, for backbones of 14-pixel patches, which do not tile 320",
            size=322,
            filter="nearest",
            upsampled="codes",
            refinements=(_FLIP, _FLIP_CRF),
        ),
        Protocol(
            "smooseg-224",
            "SmooSeg on Potsdam",
            size=224,
            filter="nearest",
            upsampled="codes",
            refinements=(_FLIP, _CRF, _FLIP_CRF),
        ),
        Protocol("picie-320", "PiCIE on COCO-Stuff and Cityscapes", size=320),
        Protocol(
            "cause-voc",
            "CAUSE on Pascal VOC: images squashed to a square",
            size=320,
            crop="squash",
            filter="nearest",
            classes=21,
            upsampled="codes",
            refinements=(_FLIP, _FLIP_CRF),
        ),
        Protocol(
            "voc-21",
            "Pascal VOC: every labelled pixel of whole images",
            crop="whole",
            classes=21,
            refinements=(_SLIDING,),
        ),
        Protocol(
            "full-resolution",
            "every labelled pixel of whole images",
            crop="whole",
            clusters="any",
            refinements=(_SLIDING,),
        ),
        Protocol(
            "squashed",
            "whole images, squashed to a square at short side data.eval_size",
            crop="squash",
            clusters="any",
        ),
        Protocol(
            "over-clustered",
            "K above the number of classes: clusters left over are merged",
            clusters="any",
            matching="merged",
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Returns a protocol by name.

    Raises:
        UserError: There is none of that name; says the nearest and all.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    raise unknown_name("protocol", name, PROTOCOLS)


def protocol_settings(name: str) -> dict[str, int]:
    """Lists the settings that a protocol brings along, in dotted keys."""
    size = find_protocol(name).size
    return {} if size is None else {"data.eval_size": size}


def stamp(config: Config[MethodConfig], data: str, split: str) -> str:
    """Names what a run's scores on a split are measured under.

    Args:
        config: The settings of the run.
        data: What the data set is called.
        split: The split that is scored.

    Returns:
        Data, split, protocol, frame, matching and backbone.
    """
    backbone, protocol = config.backbone, find_protocol(config.protocol)
    note = f" ({backbone.note})" if backbone.note else ""
    seen = {"centre": "centre square", "squash": "squashed", "whole": "whole images"}
    return (
        f"{data} {split}, {protocol.name}: {seen[protocol.crop]} at short side "
        f"{config.data.eval_size}, {protocol.filter}, {protocol.matching}; {backbone.name}{note}"
    )
