"""The model card: README.md, as people and the Hub read it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from usseg_ray.core.files import write_whole
from usseg_ray.core.foreign import markdown_safe as _text

if TYPE_CHECKING:
    from usseg_ray.models.description import Description, ModelScores
    from usseg_ray.models.names import Names

CARD_FILE = "README.md"

_OURS = "<!-- Written again with every change of the model; without this line it stays yours. -->"

_HUB_LICENCES = {"Apache-2.0": "apache-2.0"}

_NONE = ("none needed", "unknown")


def write_card(description: "Description", folder: Path) -> None:
    """Writes a model's card, unless a person has made it theirs."""
    path = folder / CARD_FILE
    if not path.exists() or _OURS in path.read_text("utf-8"):
        write_whole(path, card(description))


def card(description: "Description") -> str:
    """Words what a model is, what it may be used for and how well it does.

    Args:
        description: Of the model.

    Returns:
        Markdown below the Hub's YAML header.
    """
    head = yaml.safe_dump(_header(description), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{_OURS}\n\n" + "\n".join(_lines(description))


def _header(description: "Description") -> dict[str, Any]:
    licence = description.backbone.licence
    named = {"license": _HUB_LICENCES[licence]} if licence in _HUB_LICENCES else {}
    if not named and licence not in _NONE:
        named = {"license": "other", "license_name": licence.lower().replace(" ", "-")}
    return {
        **named,
        "library_name": "usseg-ray",
        "pipeline_tag": "image-segmentation",
        "tags": ["unsupervised-semantic-segmentation", description.method],
    }


def _lines(description: "Description") -> Iterator[str]:
    about, learnt = description, description.data or "images of its owner"
    yield f"# {about.method} on {_text(learnt)}, {about.num_clusters} clusters\n"
    yield (
        f"Segments images into {about.num_clusters} groups that `{about.method}` found without "
        f"labels, on features of the frozen backbone `{about.backbone.name}`. Written by usseg_ray "
        f"{about.usseg_ray}.\n"
    )
    yield "## Use\n\n```python\nimport usseg_ray\n"
    yield 'result = usseg_ray.load("FOLDER, RUN OR hf://OWNER/NAME").predict("photo.jpg")'
    yield 'result.save("mask.png")\n```\n'
    yield from _clusters(about.names)
    yield from _scores(about.scores)
    yield from _origin(about)
    yield "## Limits\n"
    yield (
        "Nothing told the method what a cluster should mean: look at its gallery before you name "
        "it, and at masks of your own images before you rely on it. Images unlike those that it "
        f"learnt from get clusters all the same. An image is seen with its short side at "
        f"{about.preprocessing.size} pixels; what is much smaller than a patch there is lost."
    )
    for line in about.preprocessing.sight.lines:
        yield f"\n{_text(line)}"


def _clusters(names: "Names") -> Iterator[str]:
    yield "## Clusters\n\n| value | name | colour | |\n|---|---|---|---|"
    for cluster, name in enumerate(names.clusters):
        becomes = "ignored" if name.ignore else ""
        if not becomes and name.merge_into is not None:
            becomes = f"part of {name.merge_into}"
        yield f"| {cluster} | {_text(name.name)} | `{name.colour}` | {becomes} |"
    yield ""


def _scores(scores: "ModelScores | None") -> Iterator[str]:
    yield "## Scores\n"
    if scores is None or not scores.values:
        yield "None: nothing was measured.\n"
        return
    seeds = f", mean of {scores.seeds} seeds" if scores.seeds > 1 else ""
    yield f"{_text(scores.protocol)}{seeds}.\n"
    yield "| score | value |\n|---|---|"
    for name, value in scores.values.items():
        yield f"| {name} | {value:.4g} |"
    for name, value in scores.floors.items():
        yield f"| unsup_miou of the baseline {name} | {value:.4g} |"
    if "unsup_miou" not in scores.values:
        yield "\nThere were no labels: these are criteria without them, none of them accuracy."
    yield ""


def _origin(about: "Description") -> Iterator[str]:
    backbone = about.backbone
    yield "## Where it comes from\n"
    if about.data:
        yield f"- Data: {_text(about.data)}, digest `{about.data_digest[:16]}`"
    weights = f", weights `{backbone.sha256[:16]}`" if backbone.sha256 else ""
    yield f"- Backbone: `{backbone.name}`{weights}"
    limits = f". {_text(backbone.limits)}" if backbone.limits else ""
    yield f"- Licence of the backbone's weights: {_text(backbone.licence)}{limits}"
    yield "- Everything that it was trained with stands in `model.yaml`\n"
