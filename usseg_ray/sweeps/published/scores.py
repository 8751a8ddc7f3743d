"""What publications report, to stand beside our scores: each with its protocol, none reproduced.

`sweeps.presets` has the settings of the same publications. Only numbers that were seen in a source
are here; docs/methods.md has those from memory too, and says more about each.
"""

from dataclasses import dataclass
from typing import Literal

Refiner = Literal["none", "flip+crf", "unstated"]


@dataclass(frozen=True)
class PublishedScore:
    """One number of a publication.

    Attributes:
        method: Name of the method here.
        variant: Of it, as the publication calls it; empty for the plain method.
        data: Name of the published data set.
        backbone: What its features come from.
        unsup_miou: Unsupervised mIoU, percent.
        unsup_acc: Unsupervised pixel accuracy, percent, where it was seen too.
        protocol: Name of the protocol that is closest to the publication's.
        refiner: What followed the prediction.
        source: Where it is published.
    """

    method: str
    variant: str
    data: str
    backbone: str
    unsup_miou: float
    unsup_acc: float | None
    protocol: str
    refiner: Refiner
    source: str

    @property
    def stamp(self) -> str:
        """Names what it was measured under, as far as is known."""
        after = {"none": "no refiner", "unstated": "refiner not stated"}.get(
            self.refiner, self.refiner
        )
        return f"{self.data} val, {self.protocol}: as published, {after}"


_Numbers = tuple[str, str, str, float, float | None]


def _scores(
    method: str, source: str, protocol: str, refiner: Refiner, *numbers: _Numbers
) -> tuple[PublishedScore, ...]:
    """Writes out rows of (variant, data, backbone, mIoU, accuracy or `None`)."""
    return tuple(
        PublishedScore(method, variant, data, backbone, miou, acc, protocol, refiner, source)
        for variant, data, backbone, miou, acc in numbers
    )


_R18, _S8, _S16, _B8 = "ResNet-18 FPN", "ViT-S/8", "ViT-S/16", "ViT-B/8"
_S14, _B14 = "DINOv2 ViT-S/14", "DINOv2 ViT-B/14"
NETWORKS = {
    "resnet18.tv_in1k": _R18,
    "vit_small_patch8_224.dino": _S8,
    "vit_small_patch16_224.dino": _S16,
    "vit_base_patch8_224.dino": _B8,
    "vit_small_patch14_dinov2.lvd142m": _S14,
    "vit_base_patch14_dinov2.lvd142m": _B14,
}
"""timm's name of a network -> as publications call it."""

_COCO, _CITY, _POTSDAM, _VOC = "cocostuff27", "cityscapes27", "potsdam3", "voc2012"
_CAUSE = "Kim et al., 2023, authors' page"
_DINO = "k-means of DINO tokens, Hahn et al., TMLR 2024, authors' page"

SCORES: tuple[PublishedScore, ...] = (
    *_scores(
        "picie",
        "Cho et al., CVPR 2021",
        "picie-320",
        "none",
        ("MDC", _COCO, _R18, 9.8, None),
        ("", _COCO, _R18, 13.8, 48.1),
        ("PiCIE+H", _COCO, _R18, 14.4, 50.0),
        ("MDC", _CITY, _R18, 7.1, None),
        ("", _CITY, _R18, 12.3, 65.5),
    ),
    *_scores(
        "stego",
        "Hamilton et al., ICLR 2022",
        "stego-320",
        "flip+crf",
        ("", _COCO, _S8, 24.5, None),
        ("", _COCO, _B8, 28.2, 56.9),
        ("", _CITY, _B8, 21.0, 73.2),
    ),
    *_scores(
        "equss",
        "Kim et al., AAAI 2024",
        "stego-320",
        "unstated",
        ("", _COCO, _S8, 25.8, 53.8),
        ("", _CITY, _B8, 22.0, 79.9),
    ),
    *_scores(
        "hp",
        "Seong et al., CVPR 2023",
        "stego-320",
        "unstated",
        ("", _COCO, _S8, 24.6, None),
        ("", _COCO, _S16, 24.3, None),
        ("", _CITY, _S8, 18.4, None),
    ),
    *_scores(
        "cause",
        _CAUSE,
        "stego-320",
        "flip+crf",
        ("MLP", _COCO, _S16, 25.9, 66.3),
        ("MLP", _COCO, _S8, 27.9, 66.8),
        ("MLP", _COCO, _B8, 34.3, 72.8),
        ("TR", _COCO, _S16, 33.1, 70.4),
        ("TR", _COCO, _S8, 32.4, 69.6),
        ("TR", _COCO, _B8, 41.9, 74.9),
        ("TR", _COCO, _B14, 45.3, 78.0),
        ("MLP", _CITY, _S8, 21.7, 87.7),
        ("MLP", _CITY, _B8, 25.7, 90.3),
        ("TR", _CITY, _S8, 24.6, 89.4),
        ("TR", _CITY, _B8, 28.0, 90.8),
        ("TR", _CITY, _B14, 29.9, 89.8),
        ("MLP", "cocostuff81", _S8, 19.1, 78.8),
        ("TR", "cocostuff81", _S8, 21.2, 75.2),
        ("MLP", "cocostuff171", _S8, 10.6, 44.9),
        ("TR", "cocostuff171", _S8, 15.2, 46.6),
    ),
    *_scores(
        "cause",
        _CAUSE,
        "cause-voc",
        "flip+crf",
        ("MLP", _VOC, _S8, 46.0, None),
        ("MLP", _VOC, _B8, 47.9, None),
        ("TR", _VOC, _S8, 50.0, None),
        ("TR", _VOC, _B8, 53.3, None),
        ("TR", _VOC, _B14, 53.2, 91.5),
    ),
    *_scores(
        "acseg",
        "Li et al., CVPR 2023",
        "voc-21",
        "unstated",
        ("", _VOC, _S16, 47.1, None),
    ),
    *_scores(
        "acseg", "Li et al., CVPR 2023", "stego-320", "unstated", ("", _COCO, _S16, 16.4, None)
    ),
    *_scores(
        "primaps",
        "Hahn et al., TMLR 2024, authors' page",
        "stego-320",
        "unstated",
        ("", _COCO, _S8, 16.4, 46.5),
        ("", _COCO, _B8, 21.9, 48.5),
        ("", _COCO, _S14, 23.8, 46.5),
        ("", _COCO, _B14, 23.6, 52.8),
        ("", _CITY, _S8, 19.4, 81.2),
        ("", _CITY, _B8, 17.6, 59.6),
        ("", _CITY, _S14, 19.0, 71.5),
        ("", _CITY, _B14, 21.3, 82.9),
        ("", _POTSDAM, _S8, 38.9, 62.5),
        ("", _POTSDAM, _B8, 67.0, 80.5),
        ("", _POTSDAM, _S14, 64.3, 78.5),
        ("", _POTSDAM, _B14, 71.1, 83.2),
    ),
    *_scores(
        "kmeans",
        _DINO,
        "stego-320",
        "unstated",
        ("", _COCO, _S8, 9.5, 34.2),
        ("", _COCO, _B8, 15.7, 38.8),
        ("", _CITY, _S8, 15.8, 61.4),
        ("", _CITY, _B8, 15.5, 49.2),
        ("", _POTSDAM, _S8, 33.6, 56.6),
        ("", _POTSDAM, _B8, 49.4, 66.1),
        ("", _COCO, _S14, 22.9, 44.5),
        ("", _COCO, _B14, 17.9, 35.0),
        ("", _CITY, _S14, 15.3, 49.5),
        ("", _CITY, _B14, 14.9, 36.1),
        ("", _POTSDAM, _S14, 61.0, 75.9),
        ("", _POTSDAM, _B14, 69.9, 82.4),
    ),
)


def find_score(data: str, method: str, variant: str, network: str) -> PublishedScore | None:
    """Finds what is published of one method on one network.

    Args:
        data: Name of the published data set.
        method: Name of the method here.
        variant: As the publication calls it; empty for the plain method.
        network: timm's name.
    """
    asked = (data, method, variant, NETWORKS.get(network))
    named = ((score, (score.data, score.method, score.variant, score.backbone)) for score in SCORES)
    return next((score for score, name in named if name == asked), None)


def published_scores(data: str) -> list[PublishedScore]:
    """Lists what is published of a data set, the best mIoU of each protocol first."""
    return sorted(
        (score for score in SCORES if score.data == data),
        key=lambda score: (score.stamp, -score.unsup_miou),
    )
