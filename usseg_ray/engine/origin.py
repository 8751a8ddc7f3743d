"""A trained model that another method starts from, built again beside it and frozen."""

import hashlib
from pathlib import Path

import safetensors.torch

from usseg_ray import methods
from usseg_ray.core.config import Origin
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import FeatureSpec
from usseg_ray.methods.base import Method


def trained_method(spec: FeatureSpec, origin: Origin, file: str | None) -> Method:
    """Builds a trained method; nothing of it learns any more.

    Args:
        spec: What the backbone gives, as when it was trained.
        origin: What it is.
        file: Its weights, in safetensors; left as they are drawn if unset, for a state that has
            them.

    Raises:
        UserError: The file is missing or another one, or does not fit these features.
    """
    method_class = methods.get(origin.method)
    config = method_class.Config.model_validate(origin.settings)
    method = method_class(config, spec, origin.num_clusters, seed=0)
    if file is not None:
        try:
            content = Path(file).read_bytes()
        except OSError:
            raise UserError(
                f"method.init_from: {file} cannot be read. Each machine of a sweep must reach it."
            ) from None
        if hashlib.sha256(content).hexdigest() != origin.sha256:
            raise UserError(
                f"method.init_from: {file} is no longer the {origin.method} that this run began "
                f"with (sha256 {origin.sha256[:12]}). Put that back, or start a new run."
            )
        method.load_state_dict(safetensors.torch.load(content))
    return method.requires_grad_(requires_grad=False).eval()
