"""How fast images become masks, beside a loop that does nothing else.

Off an image's path. The loop decodes, shows, computes and writes a PNG, one image after the other;
`predict` finds confidence and shares too, writes whole files and notes them, and must not be slower
for it. The cluster's start is not counted: it is the same for ten images and a million.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from usseg_ray import methods
from usseg_ray.bench.inputs import make_jpegs, random_backbone, scratch
from usseg_ray.bench.meter import Measure, apart, least_seconds
from usseg_ray.core.config import build_config, flatten
from usseg_ray.core.types import Images
from usseg_ray.core.views import Frame
from usseg_ray.data.decode import decode_image
from usseg_ray.data.transforms import frame_image
from usseg_ray.engine.model import build_model
from usseg_ray.models.folder import describe, save_model
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.outputs.places import find_images
from usseg_ray.outputs.work import Order, Worker
from usseg_ray.scoring.prediction import label_map

LIMIT = 0.9
"""Of the loop's rate, at least."""

METHOD, CLUSTERS, SIDE = "stego", 27, 320
_ROUNDS = 2


def prediction_bars(images: int = 12) -> Iterator[Measure]:
    """Times a worker of `predict` against a bare loop, in a process of its own.

    Args:
        images: How many JPEGs.

    Yields:
        Images per second with their bar.
    """
    ours, bare = apart(_seconds, images)
    what = f"predict, {METHOD}, {SIDE} px, K = {CLUSTERS}, PNG"
    alone = "decode, backbone, head and PNG in a bare loop"
    yield Measure("predict", what, images / ours, "images/s", alone, images / bare, LIMIT)


def _seconds(count: int) -> tuple[float, float]:
    threads = torch.get_num_threads()
    with scratch() as folder:
        (folder / "images").mkdir()
        for index, data in enumerate(make_jpegs(count)):
            (folder / "images" / f"{index:04d}.jpg").write_bytes(data)
        model = _random_model(folder)
        place, out = str(folder / "images"), str(folder / "out")
        found = find_images(place, out).found
        worker = Worker(
            Order(str(model), place, out, ("png",), None, rasters=False), "cpu", threads
        )
        segmenter = Segmenter.open(model, torch.device("cpu"))
        paths = [Path(image.path) for image in found]
        ours, bare = least_seconds(
            lambda: worker(found),
            lambda: _loop(segmenter, paths, folder / "bare"),
            rounds=_ROUNDS,
        )
    return ours, bare


def _random_model(folder: Path) -> Path:
    method = methods.get(METHOD)
    backbone = random_backbone(folder)
    sizes = {"num_clusters": CLUSTERS, "data.eval_size": SIDE, "data.name": "noise"}
    config = build_config(method.Config, [flatten(backbone, "backbone."), sizes])
    built = build_model(config, method, torch.device("cpu"))
    about = describe(METHOD, config, built.featurise.backbone)
    weights = Path(backbone.weights) if backbone.weights else None
    save_model(folder / "model", about, built.method.state_dict(), weights)
    return folder / "model"


@torch.no_grad()
def _loop(segmenter: Segmenter, paths: list[Path], out: Path) -> None:
    out.mkdir(exist_ok=True)
    predictor = segmenter.model.predictor()
    frame = Frame(SIDE, "whole", segmenter.description.preprocessing.filter)
    palette = segmenter.names.palette.tobytes()
    for path in paths:
        image = decode_image(path.read_bytes())
        pixels: Tensor = torch.from_numpy(frame_image(image, frame))[None]
        scores = predictor.predict(Images(("0",), pixels)).scores()
        mask = label_map(scores, image.shape[:2])[0].to(torch.uint8).numpy()
        picture, stream = Image.fromarray(mask, mode="P"), io.BytesIO()
        picture.putpalette(palette)
        picture.save(stream, "PNG")
        (out / f"{path.stem}.png").write_bytes(stream.getvalue())
