"""What a score was measured under, in words: two scores compare only where it is equal."""

from usseg_ray.config import Config, MethodConfig


def protocol_name(config: Config[MethodConfig], data: str, split: str) -> str:
    """Names a protocol.

    Args:
        config: The settings of the run that was scored.
        data: What the data set is called.
        split: The split that was scored.

    Returns:
        Data, split, frame, matching, refiner and backbone.
    """
    backbone = config.backbone
    note = f" ({backbone.note})" if backbone.note else ""
    return (
        f"{data} {split}, short side {config.data.eval_size}, centre crop, one-to-one, no refiner, "
        f"{backbone.name}{note}"
    )
