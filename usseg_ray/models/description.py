"""What a model says of itself: `model.yaml`, read through a schema."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, field_serializer, field_validator

from usseg_ray import __version__
from usseg_ray.core.config import Settings
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import write_whole
from usseg_ray.core.records import DamagedError, first_fault
from usseg_ray.core.sources import parse_yaml, read_text
from usseg_ray.core.views import Filter
from usseg_ray.data.scaling import AS_THEY_ARE, Sight
from usseg_ray.models.card import write_card
from usseg_ray.models.names import Names

MODEL_FILE = "model.yaml"

FORMAT_VERSION: Literal[1] = 1

_CURE = "Take it from the run, or the place that it was copied from, again."


class BackboneNote(Settings):
    """The frozen network that a model reads.

    Attributes:
        name: A timm model, or `textons`.
        layer: What is read of it, as `backbone.layer`.
        file: Its weights beside the model; `None` where timm finds them by name.
        sha256: Of its weights (`features.store.recipe.weights_digest`); `None` where it has none.
        licence: Of the weights.
        limits: What the licence does not let one do, in a sentence; empty where nothing.
    """

    name: str
    layer: int | tuple[int, ...] | None = None
    file: str | None = Field(None, pattern=r"^[\w.-]+$")
    sha256: str | None = None
    licence: str = "unknown"
    limits: str = ""


class Preprocessing(Settings):
    """How an image is shown to the model.

    Attributes:
        size: What the short side becomes, pixels; longer sides are seen through windows.
        filter: How it is resampled.
        sight: Which bands of its file are seen, and what becomes black and white.
    """

    size: int = Field(ge=8)
    filter: Filter = "bilinear"
    sight: Sight = AS_THEY_ARE


class ModelScores(Settings):
    """What was measured of a model.

    Attributes:
        protocol: What it was measured under; see `scoring.protocols.stamp`.
        values: By name, in percent; means over the seeds.
        floors: `unsup_miou` of each baseline under the same; empty without labels.
        seeds: With how many seeds it was trained.
    """

    protocol: str
    values: dict[str, float]
    floors: dict[str, float] = Field(default_factory=dict)
    seeds: int = Field(1, ge=1)


class Description(Settings):
    """What `model.yaml` holds.

    Attributes:
        format_version: Of the folder.
        usseg_ray: The version that wrote it.
        method: Name of the method.
        num_clusters: K.
        config: The run's whole flattened config; of places on its machine, the last names.
        backbone: The frozen network.
        preprocessing: How images are shown.
        names: What clusters are called.
        data: Name of the prepared set that it learnt from.
        data_digest: Its digest.
        scores: What was measured, if anything was.
        weights_sha256: Of the bytes of the weights' file.
        split_from: `weights_sha256` of what was trained, where clusters of that were split.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    format_version: Literal[1] = FORMAT_VERSION
    usseg_ray: str = __version__
    method: str
    num_clusters: int = Field(ge=1)
    config: dict[str, Any]
    backbone: BackboneNote
    preprocessing: Preprocessing
    names: Names
    data: str = ""
    data_digest: str = ""
    scores: ModelScores | None = None
    weights_sha256: str = ""
    split_from: str = ""

    @field_validator("names", mode="before")
    @classmethod
    def _of_tree(cls, given: object) -> Names:
        return given if isinstance(given, Names) else Names.of_tree(given, "names")

    @field_serializer("names")
    def _to_tree(self, names: Names) -> dict[int, dict[str, Any]]:
        return names.tree()


def write_description(description: Description, folder: Path) -> None:
    """Writes `model.yaml` in one move, and the card that says the same to people."""
    tree = description.model_dump(mode="json")
    # JSON has no whole numbers for keys, and people write names with them.
    tree["names"] = description.names.tree()
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    write_whole(folder / MODEL_FILE, text)
    write_card(description, folder)


def read_description(folder: Path) -> Description:
    """Reads a model's description.

    Args:
        folder: Of the model.

    Raises:
        UserError: There is none, or a later version of usseg_ray wrote it.
        DamagedError: It is not what was written.
    """
    path = folder / MODEL_FILE
    try:
        tree = parse_yaml(read_text(path), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: no model ({MODEL_FILE} is not in it).") from None
    except UserError as error:
        raise DamagedError(f"{error} {_CURE}") from None
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise UserError(
            f"{path}: a model of format version {version}, and this usseg_ray reads "
            f"{FORMAT_VERSION}; usseg_ray {tree.get('usseg_ray', 'of another version')} wrote it: "
            "install that, or train again."
        )
    try:
        # Lax: YAML has lists where tuples are meant.
        description = Description.model_validate(tree)
    except ValidationError as error:
        raise DamagedError(f"{path} is damaged: {first_fault(error)}. {_CURE}") from None
    except UserError as error:
        raise DamagedError(f"{path} is damaged: {error} {_CURE}") from None
    if len(description.names) != description.num_clusters:
        raise DamagedError(
            f"{path} is damaged: {len(description.names)} names for {description.num_clusters} "
            f"clusters. {_CURE}"
        )
    return description
