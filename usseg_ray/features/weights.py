"""Whether the published weights of a backbone can be had, before anything is waited for."""

import urllib.error
import urllib.request
from pathlib import Path

from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.errors import UserError, did_you_mean
from usseg_ray.core.files import first_line
from usseg_ray.features.textons import TEXTONS
from usseg_ray.features.zoo import huggingface_hub, timm

HUB_TIMEOUT_S = 5.0

FILE = "model.safetensors"
"""What timm's weights are called on the hub, by timm's own names of tensors."""

_CLOSED = (401, 403)
"""Answers of the hub to who may not have something."""


def check_weights(config: BackboneConfig) -> None:
    """Makes sure within seconds that a backbone's weights can be had.

    Args:
        config: The backbone.

    Raises:
        UserError: They cannot; names the three ways on.
    """
    if config.name == TEXTONS and config.weights is not None:
        raise UserError(
            f"backbone.weights = {config.weights}: textons have no weights. Name the network "
            "that they are of: --set backbone.name=..."
        )
    if config.name == TEXTONS:
        return
    if config.weights is not None:
        if not Path(config.weights).is_file():
            raise UserError(f"backbone.weights = {config.weights}: no such file.")
        return
    if not timm.is_model(config.name.split(".")[0]):
        hint = did_you_mean(config.name, timm.list_models(), most=3)
        raise UserError(f"backbone.name = {config.name!r} is no timm model{hint}")
    try:
        cfg = timm.get_pretrained_cfg(config.name)
    except RuntimeError:  # an unknown tag
        cfg = None
    if cfg is None or not cfg.has_weights:
        tags = timm.list_pretrained(f"{config.name.split('.')[0]}*")[:4]
        raise UserError(
            f"backbone.name = {config.name!r} has no published weights; timm has {tags}. "
            "Or give a file: --set backbone.weights=FILE.safetensors"
        )
    if cfg.hf_hub_id is not None and not _cached(cfg.hf_hub_id):
        _reach(config, huggingface_hub.hf_hub_url(cfg.hf_hub_id, "config.json"))


def _cached(repository: str) -> bool:
    names = (FILE, "pytorch_model.bin")
    return any(
        isinstance(huggingface_hub.try_to_load_from_cache(repository, n), str) for n in names
    )


def _reach(config: BackboneConfig, url: str) -> None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        # Who has a token is answered by the download itself.
        if error.code not in _CLOSED or huggingface_hub.get_token() is None:
            raise missing_weights(config, error) from None
    except OSError as error:
        raise missing_weights(config, error) from None


def missing_weights(config: BackboneConfig, error: OSError) -> UserError:
    """Says why weights cannot be had, where they are, under which licence, and what to do."""
    cfg = timm.get_pretrained_cfg(config.name)
    page, _, _ = huggingface_hub.hf_hub_url(cfg.hf_hub_id, FILE).partition("/resolve/")
    # urllib's answer has a code, that of the hub's client a response with one.
    code = getattr(error, "code", getattr(getattr(error, "response", None), "status_code", None))
    reason = f"HTTP {code}" if code else first_line(getattr(error, "reason", error))
    first = "connect and run again (they are cached once)"
    if code in _CLOSED:
        first = "accept the terms there, run `hf auth login`, and run again"
    return UserError(
        f"The weights of {config.name} are not in the local cache and cannot be had from {page} "
        f"({reason}). Licence: {cfg.license or 'unknown'}. Three ways on: "
        f"{first}; save {FILE} of that page anywhere, and --set "
        "backbone.weights=FILE.safetensors; --set backbone.name=textons"
    )
