"""The pictures of a report: the same images, as every finalist segments them.

It stands after `read`. A finalist's `examples.npz` has its label maps of the images that all
trials show; where one has none, its whole mosaic stands in.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from usseg_ray.core.npz import read_arrays
from usseg_ray.core.records import DamagedError
from usseg_ray.pictures import encoding
from usseg_ray.pictures.palettes import paint
from usseg_ray.report.content import Note, PageBlock, Picture, PictureGrid, Section
from usseg_ray.report.details import shown_runs
from usseg_ray.report.read import RunRecord, Store, SweepRecord

_BUDGET = 3_000_000  # bytes of all pictures of a page

_TILE, _MOSAIC = 420, 1100  # pixels


def galleries(store: Store, sweeps: Sequence[SweepRecord]) -> Section:
    """Lays finalists side by side: images, ground truth and what each made of them."""
    found = [(sweep, *finalist) for sweep in sweeps for finalist in sweep.finalists()]
    budget = _BUDGET // max(10 * len(found), 1)
    blocks: list[PageBlock] = []
    for sweep in sweeps:
        shown = [(trial, *shown_runs(sweep, trial, runs)) for trial, runs in sweep.finalists()]
        for protocol in dict.fromkeys(protocol for _, _, protocol in shown):
            group = [(trial, holders[0]) for trial, holders, one in shown if one == protocol]
            blocks += _compared(store, group, protocol, budget)
            blocks += _clusters(store, group, protocol, budget)
    why = Note("No finalist has pictures in the store.")
    return Section("pictures", "Pictures", tuple(blocks) or (why,))


def _compared(
    store: Store, group: Sequence[tuple[RunRecord, RunRecord]], protocol: str, budget: int
) -> list[PageBlock]:
    """Shows finalists of one protocol: image by image where they share them, else by mosaics."""
    arrays = [_examples(store, holder) for _, holder in group]
    names = [f"{trial.method} {trial.trial}" for trial, _ in group]
    known = [one for one in arrays if one is not None]
    if len(known) == len(arrays) and known and len({tuple(_ids(one)) for one in known}) == 1:
        return [
            _gallery(known, names, number, name, protocol, budget)
            for number, name in enumerate(_ids(known[0]))
        ]
    pictures = []
    for name, (_, holder) in zip(names, group, strict=True):
        if data := store.artifact(holder, "pictures/mosaic.png"):
            text = f"Images, ground truth and predictions of {name}, one image a row."
            pictures.append(embedded_picture(data, text, name, side=_MOSAIC, budget=4 * budget))
    return (
        [PictureGrid(f"Mosaics of the finalists: {protocol}", tuple(pictures), ())]
        if pictures
        else []
    )


def _clusters(
    store: Store, group: Sequence[tuple[RunRecord, RunRecord]], protocol: str, budget: int
) -> list[PageBlock]:
    """Shows patches of every cluster, finalist by finalist."""
    pictures = []
    for trial, holder in group:
        if data := store.artifact(holder, "pictures/clusters.png"):
            name = f"{trial.method} {trial.trial}"
            text = f"Patches that {name} puts in each of its clusters, a cluster a row."
            pictures.append(embedded_picture(data, text, name, side=_MOSAIC, budget=4 * budget))
    title = f"What is in each cluster: {protocol}"
    return [PictureGrid(title, tuple(pictures), ())] if pictures else []


def k_maps(store: Store, sweep: SweepRecord) -> list[PageBlock]:
    """Shows the label maps of every K that was tried, where a sweep asked for K."""
    pictures = []
    for method in sweep.methods:
        if data := store.artifact(sweep.parent, f"k/{method}-maps.png"):
            text = f"Images, and label maps of {method} with every number of clusters tried."
            budget = _BUDGET // (4 * len(sweep.methods))
            pictures.append(embedded_picture(data, text, method, side=_MOSAIC, budget=budget))
    title = f"Label maps by number of clusters: {sweep.protocol}"
    return [PictureGrid(title, tuple(pictures), ())] if pictures else []


def _examples(store: Store, run: RunRecord) -> dict[str, Any] | None:
    data = store.artifact(run, "examples.npz")
    if data is None:
        return None
    try:
        return read_arrays(io.BytesIO(data), {"pixels": 4, "labels": 3, "captions": 1}, "")
    except DamagedError:
        return None


def _ids(arrays: dict[str, Any]) -> list[str]:
    """Reads the names of the images off their captions, which say the run's scores too."""
    plain = (str(caption).partition(", mIoU")[0] for caption in arrays["captions"])
    return [text.rpartition(": ")[2] for text in plain]


def _gallery(
    arrays: Sequence[dict[str, Any]],
    names: Sequence[str],
    number: int,
    image: str,
    protocol: str,
    budget: int,
) -> PictureGrid:
    first = arrays[0]
    classes = [str(name) for name in first["classes"]]
    palette, ignore = first["palette"], int(first["ignore_index"])
    truth = first["labels"][number]
    pictures = [
        _tile(first["pixels"][number], f"Image {image}.", "image", budget),
        _tile(paint(truth, palette, ignore), _said(truth, classes), "ground truth", budget),
    ]
    for one, name in zip(arrays, names, strict=True):
        ids = one["predicted"][number]
        score = str(one["captions"][number]).rpartition(", mIoU ")[2]
        caption = f"{name}, mIoU of the image {score}"
        pictures.append(
            _tile(paint(ids, palette), f"{name}: {_said(ids, classes)}", caption, budget)
        )
    predicted = np.unique([one["predicted"][number] for one in arrays])
    seen = np.union1d(predicted, truth[truth != ignore]).tolist()
    legend = [
        (classes[i], "#" + bytes(palette[i].tolist()).hex()) for i in seen if i < len(classes)
    ]
    if predicted.max() >= len(classes):
        legend.append(("hatched grey: a cluster without a class", ""))
    if (truth == ignore).any():
        legend.append(("chequered: no ground truth", ""))
    return PictureGrid(f"{image}: {protocol}", tuple(pictures), tuple(legend))


def _tile(pixels: np.ndarray, text: str, caption: str, budget: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return embedded_picture(file.getvalue(), text, caption, side=_TILE, budget=budget)


def _said(ids: np.ndarray, classes: Sequence[str]) -> str:
    """Says in words what a label map shows: its classes and their shares, the largest first."""
    values, counts = np.unique(ids[ids < len(classes)], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    parts = [f"{classes[values[i]]} {100 * counts[i] / ids.size:.0f} %" for i in order[:6]]
    return (", ".join(parts) or "no class") + "."


def embedded_picture(data: bytes, text: str, caption: str, *, side: int, budget: int) -> Picture:
    """Shrinks a picture until its bytes fit.

    Args:
        data: An image file.
        text: Says to those who do not see it what it shows.
        caption: Stands beneath it.
        side: The longest width, pixels.
        budget: The most bytes that it may take.

    Returns:
        The picture as WebP in a data URI.
    """
    with Image.open(io.BytesIO(data)) as file:
        source, size = encoding.embedded(file.convert("RGB"), side=side, budget=budget)
    return Picture(source, size, text, caption)
