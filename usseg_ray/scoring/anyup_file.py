"""The weights of AnyUp, which a user has and names: read once their sha256 is the one named."""

import hashlib
import os
import pickle
from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line
from usseg_ray.core.types import Needs
from usseg_ray.ops.anyup import LAYOUT, AnyUp
from usseg_ray.scoring.protocols import Refinement

VARIABLE = "USSEG_ANYUP"

_MARK = "#sha256="


def named_anyup() -> str:
    """Returns what the environment says: a file, and the sha256 that it must have."""
    return os.environ.get(VARIABLE, "")


def anyup_digest() -> str:
    """Returns the sha256 of the weights that the environment names, which must be the file's.

    Raises:
        UserError: None are named, they are not there, are others, or no weights of AnyUp.
    """
    path, digest = _checked(named_anyup())
    _read(path)
    return digest


def open_anyup(
    refinements: Iterable[Refinement], needs: Needs, device: torch.device, named: str | None = None
) -> AnyUp | None:
    """Loads the upsampler whose weights are named, where a refinement asks for it.

    Args:
        refinements: What is asked for.
        needs: Of the method whose scores are refined.
        device: Where to compute.
        named: As `named_anyup` says it, which it does if this is unset.

    Raises:
        UserError: As `anyup_digest`, the file holds no weights of AnyUp, or the method reads no
            frozen backbone, whose tokens say which patches are alike.
    """
    if not any("anyup" in one for one in refinements):
        return None
    if not needs.features:
        raise UserError(
            "--refine anyup compares a frozen backbone's tokens, and this method reads none: "
            "leave it out, or take guided."
        )
    path, _ = _checked(named_anyup() if named is None else named)
    return AnyUp({name: one.to(device, torch.float32) for name, one in _read(path).items()})


def _read(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of `LAYOUT`, all and no others."""
    try:
        if path.suffix == ".safetensors":
            held = safetensors.torch.load_file(path)
        else:
            held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own words advise to unpickle it as it is.
        raise UserError(f"{VARIABLE}: {path} holds what no checkpoint of tensors does.") from None
    except (OSError, RuntimeError, EOFError, safetensors.SafetensorError) as error:
        raise UserError(f"{VARIABLE}: {path} cannot be read ({first_line(error)[:80]}).") from None
    shapes = {name: tuple(getattr(one, "shape", ())) for name, one in dict(held).items()}
    if shapes != LAYOUT:
        other = sorted(name for name, _ in shapes.items() ^ LAYOUT.items())[0]
        raise UserError(
            f"{VARIABLE}: {path} holds no weights of AnyUp, or of another form of it: {other} is "
            f"{shapes.get(other, 'missing')}, not {LAYOUT.get(other, 'among its weights')}."
        )
    return dict(held)


def _checked(named: str) -> tuple[Path, str]:
    """Finds the file, and its sha256."""
    name, _, asked = named.partition(_MARK)
    if not name:
        raise UserError(
            "--refine anyup: download anyup_multi_backbone.pth (CC BY 4.0) from "
            f"github.com/wimmerth/anyup, releases, and set {VARIABLE}=FILE{_MARK}HEX."
        )
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"{VARIABLE}: {path}: no such file.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not asked:
        raise UserError(f"{VARIABLE}: if {path} is the file you mean, add {_MARK}{found} to it.")
    if found != asked.lower():
        raise UserError(f"{VARIABLE}: {path} has sha256 {found}, not {asked}.")
    return path, found
