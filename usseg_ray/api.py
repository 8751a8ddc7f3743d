"""What `import usseg_ray` offers, loaded when it is first asked for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from usseg_ray.models.loaded import LoadedModel


def load(
    place: "str | Path", *, device: str | None = None, tracking_uri: str | None = None
) -> "LoadedModel":
    """Loads a model.

    Args:
        place: A run (its name under ./runs, or its folder), a model's or a trial's folder,
            `models:/NAME@champion` or `hf://OWNER/NAME`.
        device: `cpu` or `cuda`; a GPU if there is one and this is unset.
        tracking_uri: The MLflow store of `models:/`; as for a sweep if unset.

    Returns:
        What has `predict`.

    Raises:
        UserError: There is none, or it cannot be opened; says what to do.
    """
    # torch: not for `import usseg_ray`.
    import torch  # noqa: PLC0415

    from usseg_ray.models.loaded import LoadedModel  # noqa: PLC0415
    from usseg_ray.models.segmenter import Segmenter  # noqa: PLC0415
    from usseg_ray.tracking.model import find_model  # noqa: PLC0415

    found = find_model(str(place), tracking_uri)
    return LoadedModel(Segmenter.open(found, torch.device(device) if device else None))
