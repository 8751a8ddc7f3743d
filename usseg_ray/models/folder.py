"""A model as a folder: safetensors, what they are, and the backbone's own weights if need be.

Nothing in it is pickled, and it needs neither the run nor the data that it came from. It appears
as a whole: it is filled under another name.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from usseg_ray import methods
from usseg_ray.core.config import Config, MethodConfig, build_config, flatten
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line, write_whole
from usseg_ray.core.records import DamagedError
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.scaling import AS_THEY_ARE
from usseg_ray.features.backbones import Backbone, build_backbone
from usseg_ray.features.presets import licence_of
from usseg_ray.features.store.recipe import weights_digest
from usseg_ray.features.textons import TEXTONS
from usseg_ray.models.description import (
    BackboneNote,
    Description,
    ModelScores,
    Preprocessing,
    read_description,
    write_description,
)
from usseg_ray.models.names import Names
from usseg_ray.scoring.protocols import find_protocol

WEIGHTS_FILE = "model.safetensors"

BACKBONE_FILE = "backbone.safetensors"

BACKBONE_WEIGHTS = "backbone.weights"

_PLACES = ("data.name", "method.network.weights", "method.init_from")
"""Settings that may be places on the machine of the run: nobody else's business."""


def describe(
    method: str,
    config: Config[MethodConfig],
    backbone: Backbone | None,
    manifest: Manifest | None = None,
    scores: ModelScores | None = None,
) -> Description:
    """Describes a trained method.

    Args:
        method: Its name.
        config: The settings of its run; `num_clusters` is a number.
        backbone: The network that it reads, with its weights; `None` where it reads none.
        manifest: Of what it learnt from.
        scores: What was measured of it.
    """
    k = config.num_clusters
    if k is None:
        raise UserError("num_clusters is not set: there is nothing to name.")
    settings = flatten(config)
    settings |= {key: Path(settings[key]).name for key in _PLACES if settings.get(key)}
    note = _backbone_note(config, backbone)
    settings[BACKBONE_WEIGHTS] = note.file
    return Description(
        method=method,
        num_clusters=k,
        config=settings,
        backbone=note,
        preprocessing=Preprocessing(
            size=config.data.eval_size,
            filter=find_protocol(config.protocol).filter,
            sight=manifest.sight if manifest else AS_THEY_ARE,
        ),
        names=Names.default(k),
        data=manifest.name if manifest else "",
        data_digest=manifest.digest() if manifest else "",
        scores=scores,
    )


def describe_run(
    method: str,
    settings: Mapping[str, Any],
    manifest: Manifest | None = None,
    scores: ModelScores | None = None,
) -> Description:
    """Describes what a run trained, from the settings in its record.

    Args:
        method: Name of its method.
        settings: Its whole flattened config.
        manifest: Of what it learnt from.
        scores: What was measured of it.

    Raises:
        UserError: The settings are of another version, or the backbone's weights out of reach.
    """
    method_class = methods.get(method)
    config = build_config(method_class.Config, [settings])
    reads = method_class.needs(config.method).features
    backbone = build_backbone(config.backbone) if reads else None
    return describe(method, config, backbone, manifest, scores)


def _backbone_note(config: Config[MethodConfig], backbone: Backbone | None) -> BackboneNote:
    known = config.backbone
    if backbone is None:
        return BackboneNote(name="none", licence="none needed")
    licence = licence_of(known)
    return BackboneNote(
        name=known.name,
        layer=known.layer,
        file=BACKBONE_FILE if known.weights else None,
        sha256=None if known.name == TEXTONS else weights_digest(backbone),
        licence=licence.name,
        limits=licence.limits,
    )


def save_model(
    folder: Path,
    description: Description,
    state: Mapping[str, Tensor],
    backbone_weights: Path | None = None,
) -> None:
    """Writes a model.

    Args:
        folder: Where; another model in it is replaced, and stays if writing fails.
        description: What it is.
        state: The method's `state_dict`.
        backbone_weights: The file that the backbone's weights came from, if one did.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".model-") as partial:
        filled = Path(partial) / folder.name
        content = _content(state)
        write_whole(filled / WEIGHTS_FILE, content)
        digest = hashlib.sha256(content).hexdigest()
        write_description(description.model_copy(update={"weights_sha256": digest}), filled)
        if backbone_weights is not None:
            shutil.copyfile(backbone_weights, filled / BACKBONE_FILE)
        if folder.exists():
            folder.replace(Path(partial) / "replaced")
        filled.replace(folder)


def is_split_of(folder: Path, state: Mapping[str, Tensor]) -> bool:
    """Says whether a folder has a model of this very state, with clusters of it split since."""
    try:
        split_from = read_description(folder).split_from
    except UserError:
        return False
    return bool(split_from) and split_from == hashlib.sha256(_content(state)).hexdigest()


def _content(state: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: _own(tensor) for name, tensor in state.items()})


def _own(tensor: Tensor) -> Tensor:
    """Gives a tensor memory of its own: safetensors refuses shared memory."""
    return tensor.detach().cpu().clone().contiguous()


def read_model(folder: Path) -> tuple[Description, dict[str, Tensor]]:
    """Reads a model's description and weights, on the CPU.

    Raises:
        UserError: There is none, or of another version.
        DamagedError: A file is not what was written.
    """
    description = read_description(folder)
    path = folder / WEIGHTS_FILE
    cure = "Take the model from the run, or the place that it was copied from, again."
    try:
        if _sha256(path) != description.weights_sha256:
            raise DamagedError(f"{path} is damaged: not the weights that were written. {cure}")
        return description, safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise DamagedError(f"{folder} is damaged: {WEIGHTS_FILE} is missing. {cure}") from None
    except safetensors.SafetensorError as error:
        raise DamagedError(f"{path} is damaged: {first_line(error)[:80]}. {cure}") from None


def settings_of(description: Description, folder: Path) -> dict[str, Any]:
    """Returns the settings that build a model, with the places of its files."""
    settings = dict(description.config)
    file = description.backbone.file
    settings[BACKBONE_WEIGHTS] = str(folder / file) if file else None
    return settings


def backbone_file(settings: Mapping[str, Any]) -> Path | None:
    """Names the file that a run's backbone got its weights from, if one did."""
    given = settings.get(BACKBONE_WEIGHTS)
    return Path(given) if given else None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
