"""A network of a method's own: four stages of any timm CNN under a feature pyramid, all trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.core.keys import key_seed
from usseg_ray.features.weights import check_weights
from usseg_ray.features.zoo import timm
from usseg_ray.methods.parts.heads import initialise_like_torch
from usseg_ray.ops.unset import unset
from usseg_ray.settings.picie import NetworkConfig


class PyramidDecoder(nn.Module):
    """Projects every stage to the same width and adds them up from coarse to fine.

    Args:
        channels: Channels of the stages, finest first.
        dim: Channels of the result.
        generator: Draws the initial weights; equal on all workers.

    Reference:
        PiCIE (CVPR 2021), official code: 1x1 convolutions with bias, no smoothing, norm or ReLU.
    """

    def __init__(self, channels: Sequence[int], dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            unset(nn.Conv2d(width, dim, 1, device="meta")) for width in channels
        )
        initialise_like_torch(self, generator)

    def forward(self, stages: Sequence[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B C h w"]:
        """Joins the stages.

        Args:
            stages: (B, channels, h, w) each, finest first.

        Returns:
            (B, dim, h, w) at the finest stage's size.
        """
        *finer, coarsest = [
            lateral(stage) for lateral, stage in zip(self.laterals, stages, strict=True)
        ]
        joined: Tensor = coarsest
        for projected in reversed(finer):
            size = projected.shape[2:]
            joined = interpolate(joined, size=size, mode="bilinear", align_corners=False)
            joined = joined + projected
        return joined


STRIDES = [4, 8, 16, 32]


class PyramidNetwork(nn.Module):
    """A timm CNN and a decoder that turn pixels into codes at a quarter of their size.

    Args:
        config: Which network.
        key: Keys the draw of whatever is not loaded.

    Raises:
        UserError: The model or its weights do not exist, do not fit or cannot be reached.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig, *key: int | str) -> None:
        super().__init__()
        pretrained = config.pretrained and config.weights is None
        with _global_draws(*key, "stages"):
            check_network(config)
            self.stages = _create(config.name, pretrained=pretrained)
        if config.weights is not None:
            _load(self.stages, config.name, Path(config.weights))
        channels = self.stages.feature_info.channels()
        self.decoder = PyramidDecoder(channels, config.dim, shared_generator(*key, "decoder"))
        expected = self.stages.pretrained_cfg
        self.register_buffer("mean", torch.tensor(expected["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(expected["std"]).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Computes codes.

        Args:
            pixels: (B, 3, H, W) in [0, 1], RGB.

        Returns:
            (B, dim, H / 4, W / 4), rounded up; not normalised.
        """
        codes: Tensor = self.decoder(self.stages(self.normalise(pixels)))
        return codes

    def normalise(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Brings pixels in [0, 1] to the mean and deviation that timm's weights of it expect."""
        return (pixels - self.mean) / self.std


def check_network(config: NetworkConfig) -> None:
    """Makes sure within seconds that a network and its weights can be had.

    Raises:
        UserError: They cannot; says which setting to change.
    """
    if not timm.is_model(config.name.split(".")[0]):
        raise UserError(
            f"method.network.name = {config.name!r} is no timm model; "
            "resnet18, resnet50 and mobilenetv2_100 are some that fit."
        )
    _stage_indices(config.name)
    if config.weights is not None:
        path = Path(config.weights)
        if path.suffix != ".safetensors" or not path.is_file():
            raise UserError(f"method.network.weights = {path}: no such .safetensors file.")
    elif config.pretrained:
        try:
            check_weights(BackboneConfig(name=config.name))
        except UserError as error:
            where, _, ways = str(error).partition("Three ways on: ")
            first = ways.partition(";")[0] or "connect and run again"
            raise UserError(
                f"method.network.name = {config.name!r}: {where.strip()} Three ways on: {first}; "
                "--set method.network.weights=FILE.safetensors; --set "
                "method.network.pretrained=false to start from a draw."
            ) from error


@contextmanager
def _global_draws(*key: int | str) -> Iterator[None]:
    """Lets timm draw from torch's global generator, by key, and puts that generator back."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(key_seed(*key))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _create(name: str, *, pretrained: bool) -> Any:  # noqa: ANN401
    return timm.create_model(
        name, pretrained=pretrained, features_only=True, out_indices=_stage_indices(name)
    )


def _stage_indices(name: str) -> tuple[int, ...]:
    """Finds the stages of strides 4, 8, 16 and 32 among those that timm gives."""
    try:
        with torch.device("meta"):
            strides = timm.create_model(name, features_only=True).feature_info.reduction()
    except (RuntimeError, TypeError, ValueError, AttributeError):
        strides = []
    if not set(STRIDES) <= set(strides):
        raise UserError(
            f"method.network.name = {name!r} gives stages of strides {strides}; four of strides "
            f"{STRIDES} are needed, as of resnet18, resnet50 or mobilenetv2_100."
        )
    return tuple(strides.index(stride) for stride in STRIDES)


def _load(stages: nn.Module, name: str, path: Path) -> None:
    """Loads the stages from a file of the whole model: each of its tensors must be known."""
    try:
        # timm joins names of stages with "_" where the whole model has ".".
        found = {_plain(key): tensor for key, tensor in safetensors.torch.load_file(path).items()}
    except safetensors.SafetensorError as error:
        raise UserError(f"method.network.weights = {path} cannot be read: {error}") from None
    with torch.device("meta"):
        known = {_plain(key) for key in timm.create_model(name).state_dict()}
    wanted = {
        _plain(key): tensor
        for key, tensor in stages.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    wrong = sorted(found.keys() - known) + sorted(
        key for key, own in wanted.items() if key not in found or found[key].shape != own.shape
    )
    if wrong:
        raise UserError(
            f"method.network.weights = {path} does not fit {name}: {len(wrong)} tensors differ, "
            f"for example {wrong[:3]}. Give a file of that timm model, or name its model."
        )
    with torch.no_grad():
        for key, own in wanted.items():
            own.copy_(found[key])


def _plain(key: str) -> str:
    return key.replace("_", ".")
