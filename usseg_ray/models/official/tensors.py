"""The tensors of a checkpoint from elsewhere, read without running anything that it holds.

A checkpoint is a pickle, and a pickle is a program. It is read in a process of its own, by torch's
unpickler for weights alone. Classes that it does not know, such as those of a training framework,
are stood for by ones that do nothing; calls of the system are refused. Only tensors come back, in
a file of safetensors.
"""

import pickletools
import subprocess
import sys
import tempfile
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line

SEPARATOR = ":"
"""Between the name of a `state_dict` in a checkpoint and a tensor's in it."""

_PATIENCE_S = 600

_REFUSED = 3

_SYSTEM = ("nt", "os", "posix", "subprocess", "sys")

_PICKLES = 4
"""Of which a checkpoint of torch before 1.6 consists, before its tensors."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint, in a process that does nothing else.

    Args:
        path: What `torch.save` wrote of a `state_dict`, or of a mapping that has some; or an array
            that `numpy.save` wrote.

    Returns:
        Name -> tensor; those of a `state_dict` within a mapping have its name before a `:`.

    Raises:
        UserError: There is no such file, it is damaged, or it is no checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    with tempfile.TemporaryDirectory(prefix="usseg-") as folder:
        target = Path(folder) / "tensors.safetensors"
        # -P: modules beside where the user is must not shadow installed ones. -B: those that are
        # not compiled yet are not kept compiled, since to rename files is refused there.
        command = [sys.executable, "-P", "-B", "-m", __name__, str(path), str(target)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"{path}: not read within {_PATIENCE_S} seconds.") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["its reader was ended"]
            raise UserError(f"{path}: cannot be read as a checkpoint ({lines[-1][:200]}).")
        return safetensors.torch.load_file(target)


def main(source: str, target: str) -> int:
    """Is that process: writes the tensors of one file to another."""
    sys.addaudithook(_refuse)
    try:
        safetensors.torch.save_file(tensors_of(Path(source)), target)
    except UserError as error:
        sys.stderr.write(str(error))
        return _REFUSED
    return 0


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint in this process; see `read_tensors`.

    Raises:
        UserError: It holds none, or what no checkpoint does.
    """
    try:
        found = dict(_tensors(_load(path)))
    except UnpicklingError:
        # torch's own words advise to unpickle it as it is.
        raise UserError("it holds what no checkpoint of tensors does") from None
    except (RuntimeError, ValueError, TypeError, EOFError, OSError, KeyError) as error:
        raise UserError(first_line(error)[:160] or "it is cut short") from None
    if not found:
        raise UserError("it holds no tensors")
    return found


class _InertObject:
    """Stands for whatever a checkpoint names: what is made of it holds what is put into it."""

    def __new__(cls, *_: object, **__: object) -> Any:  # noqa: ANN401
        # The one mapping besides `dict` that torch's unpickler fills.
        return OrderedDict()


def _refuse(event: str, _: tuple[object, ...]) -> None:
    """Ends what no reading of tensors does; a second wall behind the unpickler."""
    if event in ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen"):
        raise UnpicklingError(f"{event} is refused")
    if event in ("socket.connect", "socket.bind", "os.remove", "os.rename", "shutil.rmtree"):
        raise UnpicklingError(f"{event} is refused")


def _load(path: Path) -> Any:  # noqa: ANN401 (whatever the checkpoint holds)
    if path.suffix == ".npy":
        return {"array": torch.from_numpy(np.load(path, allow_pickle=False))}
    known = torch.serialization.get_safe_globals()
    named = sorted(_names(path))
    if system := [name for name in named if name.partition(".")[0] in _SYSTEM]:
        raise UserError(f"it calls {system[0]}, as no checkpoint does")
    # Each its own class, as they may be keys of a mapping.
    inert = [(type(name, (_InertObject,), {}), name) for name in named]
    with torch.serialization.safe_globals([*known, *inert]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _names(path: Path) -> set[str]:
    """Lists what a checkpoint names, without unpickling it."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            return set(_named(stream, _PICKLES))
    with zipfile.ZipFile(path) as archive:
        (data,) = [name for name in archive.namelist() if name.endswith("/data.pkl")] or [""]
        if not data:
            raise ValueError("it is an archive without data.pkl")
        with archive.open(data) as stream:
            return set(_named(stream, 1))


def _named(stream: IO[bytes], count: int) -> Iterator[str]:
    for _ in range(count):
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                # As Python 2 called them, which pickles of torch do to this day.
                module, name = NAME_MAPPING.get((module, name), (module, name))
                yield f"{IMPORT_MAPPING.get(module, module)}.{name}"


def _tensors(held: object, within: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a mapping, and of those that it holds, but not of optimisers'."""
    if not isinstance(held, Mapping):
        return
    for key, value in held.items():
        if isinstance(value, Tensor) and isinstance(key, str):
            # Memory of its own: tensors of a checkpoint may share it.
            yield f"{within}{key}", value.detach().clone().contiguous()
        elif not within and isinstance(key, str):
            yield from _tensors(value, f"{key}{SEPARATOR}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
