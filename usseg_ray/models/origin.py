"""Which trained model a method may start from, and what is kept of it."""

from pathlib import Path

from usseg_ray import methods
from usseg_ray.core.config import BackboneConfig, Config, MethodConfig, Origin, build_config
from usseg_ray.core.errors import UserError
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.store.recipe import weights_digest
from usseg_ray.models.description import Description
from usseg_ray.models.folder import WEIGHTS_FILE, read_model
from usseg_ray.scoring.protocols import find_protocol

CENTROIDS = "probe.centroids"


def origin_of(folder: Path, config: Config[MethodConfig]) -> tuple[Origin, Path]:
    """Describes a model that a method is to start from, once it is known to fit.

    Args:
        folder: Of the model.
        config: Settings of the run that starts.

    Returns:
        What it is, and the file with its weights.

    Raises:
        UserError: It is missing, has no codes, or was trained on another backbone or frame.
        DamagedError: A file is not what was written.
    """
    folder = folder.absolute()
    about, _ = read_model(folder)
    theirs = build_config(methods.get(about.method).Config, [about.config])
    _check_codes(about, theirs.method, folder)
    _check_backbone(about, theirs.backbone, config.backbone, folder)
    _check_frame(about, config, folder)
    settings = theirs.method.model_dump(mode="json")
    origin = Origin(
        method=about.method,
        num_clusters=about.num_clusters,
        settings=settings,
        sha256=about.weights_sha256,
    )
    return origin, folder / WEIGHTS_FILE


def _check_codes(about: Description, settings: MethodConfig, folder: Path) -> None:
    """Refuses a method that makes no codes of tokens alone."""
    method = methods.get(about.method)
    if CENTROIDS not in method.centroids_in:
        reason = "which makes no codes to start from"
    elif method.needs(settings).block_input:
        reason = "whose codes are of what goes into a block of the backbone, not of tokens"
    else:
        return
    known = ", ".join(one.name for one in methods.METHODS if CENTROIDS in one.centroids_in)
    raise UserError(
        f"method.init_from: {folder} is a model of {about.method}, {reason}. Give one of: {known} "
        "(ppap: trained with method.block=new)."
    )


def _check_backbone(
    about: Description, theirs: BackboneConfig, ours: BackboneConfig, folder: Path
) -> None:
    bare = {"weights": None, "note": ""}
    if theirs.model_copy(update=bare) != ours.model_copy(update=bare):
        differing = [
            f"backbone.{name} {getattr(theirs, name)}, here {getattr(ours, name)}"
            for name in BackboneConfig.model_fields
            if name not in bare and getattr(theirs, name) != getattr(ours, name)
        ]
        raise UserError(
            f"method.init_from: {folder} was trained on another backbone ({'; '.join(differing)})."
        )
    known = about.backbone.sha256
    if known is not None and weights_digest(build_backbone(ours)) != known:
        raise UserError(
            f"method.init_from: {folder} was trained on other weights of {ours.name} (sha256 "
            f"{known[:12]}). --set backbone.weights=FILE names those."
        )


def _check_frame(about: Description, config: Config[MethodConfig], folder: Path) -> None:
    shown, theirs = about.preprocessing, find_protocol(config.protocol).filter
    if (shown.size, shown.filter) != (config.data.eval_size, theirs):
        raise UserError(
            f"method.init_from: {folder} sees images at {shown.size} px, {shown.filter}, and this "
            f"run at {config.data.eval_size} px, {theirs}. --set data.eval_size={shown.size}, and "
            "the protocol of that model, make them equal."
        )
