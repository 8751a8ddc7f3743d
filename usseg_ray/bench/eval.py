"""What scoring costs beside the prediction that it scores, held to its bar.

Off an image's path. Counting, boundaries, the scores of single images and the gallery of clusters
come with every evaluation; none of them may cost what the network costs.
"""

from collections.abc import Iterator

import torch
from torch.nn.functional import interpolate

from usseg_ray import methods
from usseg_ray.bench.inputs import BACKBONE
from usseg_ray.bench.meter import Measure, apart, cpu_seconds, least_seconds, synchronised
from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.types import Images, LabelledImages
from usseg_ray.features.backbones import TimmFeatures
from usseg_ray.features.featuriser import Featuriser
from usseg_ray.scoring.evaluation import GroundTruth, evaluate
from usseg_ray.scoring.prediction import ClusterScorer, Predictor

SIDE, NUM_CLASSES, BATCH = 320, 27, 8
LIMIT = 1.3
_ROUNDS = 2


def evaluation_bars(batches: int = 1, device: str = "cpu") -> Iterator[Measure]:
    """Times an evaluation against backbone, head and upsampling alone, in a process of its own.

    Args:
        batches: Batches of 8 images.
        device: Where: on a CPU in CPU seconds.

    Yields:
        Seconds an image with their bar.
    """
    scored, predicted = apart(_seconds, batches, torch.device(device))
    images, kind = batches * BATCH, "evaluation" if device == "cpu" else "gpu"
    what = f"evaluation, {SIDE} px, {NUM_CLASSES} classes"
    alone, known = f"{BACKBONE} (random weights), head and upsampling alone", predicted / images
    yield Measure(kind, what, scored / images, "s/image", alone, known, LIMIT)


def _seconds(count: int, device: torch.device) -> tuple[float, float]:
    backbone = TimmFeatures(BackboneConfig(name=BACKBONE), pretrained=False).eval()
    stego = methods.get("stego")
    method = stego(stego.Config(), backbone.spec, NUM_CLASSES, 0).eval().to(device)
    featurise = Featuriser(backbone, stego.needs(method.config), device, autocast=False)
    labelled = [_batch(number) for number in range(count)]
    truth = GroundTruth(tuple(map(str, range(NUM_CLASSES))), 255)

    def score() -> None:
        predictor = Predictor(ClusterScorer(method), featurise, SIDE)
        evaluate(predictor, labelled, truth, expected_rows=count * BATCH, device=device)

    @torch.no_grad()
    def predict() -> None:
        for one in labelled:
            scores = method.predict(featurise(one.images))
            interpolate(scores, size=(SIDE, SIDE), mode="bilinear", align_corners=False)

    clock = cpu_seconds if device.type == "cpu" else least_seconds
    first, second = clock(*(synchronised(one, device) for one in (score, predict)), rounds=_ROUNDS)
    return first, second


def _batch(number: int) -> LabelledImages:
    """Makes noise, and labels in blocks as large as objects."""
    random = torch.Generator().manual_seed(number)
    shape = (BATCH, 3, SIDE, SIDE)
    pixels = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    coarse = torch.randint(0, NUM_CLASSES, (BATCH, SIDE // 32, SIDE // 32), generator=random)
    labels = coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)
    numbers = tuple(range(number * BATCH, (number + 1) * BATCH))
    return LabelledImages(Images(tuple(map(str, numbers)), pixels), labels, numbers)
