"""Writes a gallery as one HTML page that needs nothing else, and has its clusters named.

Its script gathers what was filled in as the `names.yaml` that the command `name` takes.
"""

import shlex
from collections.abc import Iterator, Mapping
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from usseg_ray.core.cli import CONSOLE, OnProgress
from usseg_ray.core.files import write_whole
from usseg_ray.core.page import document
from usseg_ray.outputs.gallery.pictures import (
    PICTURED,
    ROWS,
    examples,
    grid,
    image,
    per_row,
)
from usseg_ray.outputs.gallery.survey import Survey, survey_images

GALLERY = "gallery.html"
"""What `fit` calls it, in the run's folder."""

EXAMPLES = 6

_WIDE, _WIDE_BYTES = 1300, 600_000

_NEIGHBOURS = 3


def write_gallery(
    model: Path,
    images: str,
    out: Path,
    *,
    pictures: Mapping[str, Path] | None = None,
    device: str = "cpu",
    on_progress: OnProgress = lambda *_: None,
) -> Survey:
    """Looks at images through a model and writes its gallery.

    Args:
        model: Its folder.
        images: A file, folder or URI.
        out: The page.
        pictures: What else is shown: heading -> a picture's file.
        device: `cpu` or `cuda`.
        on_progress: Told how far it is.

    Returns:
        What was seen.

    Raises:
        UserError: As of `survey_images`.
    """
    found = survey_images(model, images, device=device, on_progress=on_progress)
    write_whole(out, gallery(found, str(model), pictures or {}))
    return found


def gallery(found: Survey, model: str, pictures: Mapping[str, Path]) -> str:
    """Writes the page.

    Args:
        found: What was seen.
        model: As `--model` takes it.
        pictures: As of `write_gallery`.

    Returns:
        HTML, at most 6 MB of it with two pictures, however many images and clusters there are.
    """
    about = found.description
    title = f"{about.method}, {len(about.names)} clusters"
    drawn = [_picture(title, path) for title, path in pictures.items()]
    sections = "".join([*_top(found, model), *_examples(found), *_clusters(found), *drawn])
    body = (
        f'<a class="skip" href="#clusters">To the clusters</a>\n<main>\n<h1>{escape(title)}</h1>\n'
        f"{sections}</main>\n"
    )
    return document(title, _resource("gallery.css"), _resource("gallery.js"), body)


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _top(found: Survey, model: str) -> Iterator[str]:
    about, looked = found.description, len(found.seen)
    learnt = f", learnt from {about.data}" if about.data else ""
    bad = f" {found.bad} could not be used." if found.bad else ""
    seen = f"{looked} of {found.images} images" if looked < found.images else f"{looked} images"
    yield (
        f"<p>{escape(about.method)} on {escape(about.backbone.name)}{escape(learnt)}. "
        f"Seen in {seen}.{bad} Nothing told it what a cluster means: you do.</p>\n"
    )
    command = f"{CONSOLE} name names.yaml --model {shlex.quote(model)}"
    yield (
        '<p>Fill in names below, then: <button type="button" id="download">Download names.yaml'
        f"</button></p>\n<pre><code>{escape(command)}</code></pre>\n"
        "<noscript><p>The button needs JavaScript; names.yaml can be written by hand.</p>"
        "</noscript>\n"
    )


def _examples(found: Survey) -> Iterator[str]:
    shown = grid("", examples(found, EXAMPLES), " wide")
    yield f"<section><h2>Images that differ most</h2>{shown}</section>\n"


def _picture(title: str, path: Path) -> str:
    with Image.open(path) as picture:
        shown = image(picture.convert("RGB"), title, side=_WIDE, budget=_WIDE_BYTES, flat=True)
    return (
        f'<section><h2>{escape(title)}</h2><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(title)}">{shown}</div></section>\n'
    )


def _clusters(found: Survey) -> Iterator[str]:
    count = len(found.description.names)
    order = np.argsort(-found.shares, kind="stable")
    pictured = {int(cluster) for cluster in order[:PICTURED]}
    yield '<section id="clusters"><h2>Clusters</h2>\n'
    if count > PICTURED:
        yield f"<p>The {PICTURED} largest have pictures.</p>\n"
    for cluster in range(count):
        rows = ROWS.items() if cluster in pictured else ()
        shots = "".join(
            f'<div class="row">{shown}</div>'
            for title, row in rows
            if (shown := grid(title, row(found, cluster, per_row(count))))
        )
        yield (
            f'<article id="cluster-{cluster}">{_head(found, cluster)}{_form(found, cluster)}'
            f'<div class="rows">{shots}</div></article>\n'
        )
    yield "</section>\n"


def _head(found: Survey, cluster: int) -> str:
    name = found.description.names.clusters[cluster]
    share = found.shares[cluster]
    said = f"{100 * share:.1f} % of the pixels" if share else "in none of these images"
    near = ", ".join(
        f"{escape(found.description.names.clusters[other].name)} {100 * part:.0f} %"
        for other, part in _neighbours(found, cluster)
    )
    touches = f". Touches {near}" if near else ""
    return (
        f'<h3><svg width="18" height="18" aria-hidden="true"><rect width="18" height="18" '
        f'fill="{name.colour}"/></svg> {cluster}: {escape(name.name)}</h3><p>{said}{touches}.</p>'
    )


def _neighbours(found: Survey, cluster: int) -> list[tuple[int, float]]:
    parts = found.contact[cluster]
    order = np.argsort(-parts, kind="stable")[:_NEIGHBOURS]
    return [(int(other), float(parts[other])) for other in order if parts[other] > 0]


def _form(found: Survey, cluster: int) -> str:
    names = found.description.names.clusters
    name, ignored = names[cluster], " checked" if names[cluster].ignore else ""
    into = "" if name.merge_into is None else name.merge_into
    return (
        f'<form data-cluster="{cluster}">'
        f'<label>Name <input name="name" maxlength="200" value="{escape(name.name)}"></label>'
        f'<label>Colour <input name="colour" type="color" value="{name.colour}"></label>'
        '<label>Merge into cluster <input name="merge_into" type="number" min="0" '
        f'max="{len(names) - 1}" value="{into}"></label>'
        f'<label><input name="ignore" type="checkbox"{ignored}> Ignore</label>'
        '<label><input name="split" type="checkbox"> Split in two</label></form>'
    )
