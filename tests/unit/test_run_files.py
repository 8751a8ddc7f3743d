"""The files of a run: whole after a full disk, never believed when damaged, written by one."""

import ast
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

import usseg_ray
from tests.unit.sweeps.test_request import request
from usseg_ray.core.errors import UserError
from usseg_ray.engine.checkpoint import BEST, RunState, keep_best
from usseg_ray.sweeps.features import load_chosen, save_chosen
from usseg_ray.sweeps.finals.scores import load_final, save_final
from usseg_ray.sweeps.request import Request
from usseg_ray.trials.tasks import load_baselines, save_baselines
from usseg_ray.trials.trial import (
    SplitScores,
    Trial,
    load_scored,
    load_trial,
    note_batch_size,
    note_test_scores,
    noted_batch_size,
    noted_test_scores,
)


class RunFile(NamedTuple):
    """A file of a run.

    Attributes:
        name: In the run's folder.
        write: Writes a version of it into a folder.
        read: Reads it from there.
        again: Whether a damaged one is computed again, in place of an error.
    """

    name: str
    write: Callable[[int, Path], object]
    read: Callable[[Path], object]
    again: bool = False


def trial(version: int) -> Trial:
    return Trial(1, "kmeans", {}, {"seed": version}, 3, metrics={"unsup_miou": 1.5})


def scored(version: int) -> SplitScores:
    return SplitScores("trial_000", "kmeans", "centre-crop", {"unsup_miou": float(version)}, {})


def best(version: int) -> RunState:
    return RunState(version, {"unsup_miou": float(version)}, {})


FILES = [
    RunFile(
        "baselines.json",
        lambda version, run: save_baselines({"val": {"kmeans": float(version)}}, run),
        load_baselines,
        again=True,
    ),
    RunFile(
        "features.json",
        lambda version, run: save_chosen([str(version)], run),
        load_chosen,
        again=True,
    ),
    RunFile(
        "final.json",
        lambda version, run: save_final({"trial_000": {"unsup_miou": float(version)}}, run),
        lambda run: load_final(run) or None,
        again=True,
    ),
    RunFile(
        "sweep.yaml",
        lambda version, run: request(num_samples=version).save(run),
        Request.load,
    ),
    RunFile(
        "trial_001/trial.json",
        lambda version, run: trial(version).save(run),
        lambda run: load_trial(run / "trial_001"),
    ),
    RunFile(
        "test.json",
        lambda version, run: note_test_scores(run, {"unsup_miou": float(version)}),
        noted_test_scores,
        again=True,
    ),
    RunFile("scores.json", lambda version, run: scored(version).save(run), load_scored),
    RunFile(
        "batch_size.json", lambda version, run: note_batch_size(run, version), noted_batch_size
    ),
    RunFile(
        f"{BEST}/metrics.json",
        lambda version, run: keep_best(best(version), run),
        lambda run: (keep_best(best(0), run), None)[1],
        again=True,
    ),
]

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def full_disk(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullFile(io.FileIO):
    """A new file on a full disk."""

    write = full_disk


def opened(path: Path, mode: str = "r", *rest: Any, _open: Any = Path.open, **named: Any) -> Any:
    return FullFile(path, "x") if mode == "xb" else _open(path, mode, *rest, **named)


@each_file
@pytest.mark.parametrize(
    ("where", "fails"),
    [("pathlib.Path.open", opened), ("os.fsync", full_disk), ("pathlib.Path.replace", full_disk)],
)
def test_a_full_disk_leaves_what_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: RunFile, where: str, fails: Any
) -> None:
    file.write(1, tmp_path)
    path = tmp_path / file.name
    before, names = path.read_bytes(), sorted(path.parent.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(where, fails)
        with pytest.raises(OSError, match="No space left"):
            file.write(2, tmp_path)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == names
    file.write(2, tmp_path)
    assert path.read_bytes() != before


@each_file
@pytest.mark.parametrize("content", [b"", b"null", b"{", b"[[1]]", b"[1, null]", b"\0\xff\0"])
def test_what_is_damaged_is_computed_again_or_told(
    tmp_path: Path, file: RunFile, content: bytes
) -> None:
    file.write(1, tmp_path)
    path = tmp_path / file.name
    path.write_bytes(content)
    if file.again:
        assert file.read(tmp_path) is None
        return
    with pytest.raises(UserError) as told:
        file.read(tmp_path)
    message = str(told.value)
    assert message.startswith(f"{path} is damaged: ")
    assert "\n" not in message


PACKAGE = Path(usseg_ray.__file__).parent

# What is written otherwise than by `core.files`, and why that is no file half written.
ELSEWHERE = {
    "core/files.py": "the one that writes",
    "core/lock.py": "a lock, written by its holder alone; a damaged one names nobody",
    "bench/history.py": "lines are appended",
    "tracking/spool.py": "lines are appended; one that was broken off is dropped",
    "prepare/sets/download.py": "a part that a later download goes on with, and is hashed",
    "prepare/sets/unpack.py": "into a folder that is moved when it is complete",
    "features/store/folder.py": "locks, which hold nothing",
    "bench/features.py": "a probe of the disk, in a folder that is removed",
    "bench/io.py": "images to prepare, in a folder that is removed",
    "bench/predict.py": "images and masks, in a folder that is removed",
    "prepare/packed.py": "into a folder that is moved when it is complete",
    "outputs/geotiff.py": "beside its place, which the one that writes fills from it",
    "models/loaded.py": "`Segmentation.save`, which has the one that writes",
}
TO_PATHS = {"write_text", "write_bytes", "open_output_stream", "savefig", "imwrite", "to_csv"}
LIBRARIES = ("torch.save", "np.save")
TO_STREAMS = {"save", "savez", "savez_compressed", "tofile", "dump"}


def modes(call: ast.Call) -> list[str]:
    """Lists the words of a call of `open` that may be its mode."""
    given = [*call.args[:2], *(k.value for k in call.keywords if k.arg == "mode")]
    words = [arg.value for arg in given if isinstance(arg, ast.Constant)]
    return [word for word in words if isinstance(word, str) and set(word) <= set("rwaxbt+")]


def memory(tree: ast.AST) -> set[str]:
    """Names what is written to and is no file: streams in memory, and what `core.files` gives."""
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    held = [node for node in assigned if "BytesIO(" in ast.unparse(node.value)]
    names = {name.id for node in held for name in ast.walk(node) if isinstance(name, ast.Name)}
    return names | {"stream"}


def writes(call: ast.Call, tree: ast.AST, *, draws: bool) -> bool:
    """Tells a call that writes to a path by its form; `draws` says whether `save` is Pillow's."""
    whole = ast.unparse(call.func)
    name = whole.rpartition(".")[2]
    if whole == "os.open":
        return "O_CREAT" in ast.unparse(call)
    if name == "open":
        return any(set(mode) & set("wax+") for mode in modes(call))
    if name not in TO_STREAMS or (name == "save" and not draws and whole not in LIBRARIES):
        return name in TO_PATHS
    target = call.args[name == "dump" or whole == "torch.save" :][:1]
    return not (target and isinstance(target[0], ast.Name) and target[0].id in memory(tree))


def found_in(source: str) -> list[str]:
    """Lists the calls of a module that write to a path."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if writes(call, tree, draws="PIL" in source)]


@pytest.mark.parametrize(
    "line",
    [
        "path.write_text('a')",
        "path.write_bytes(b'a')",
        "path.open('wb')",
        "open(path, mode='a+')",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "filesystem.open_output_stream(path)",
        "np.savez(path, a=1)",
        "np.save(folder / 'a', a)",
        "torch.save(state, path)",
        "json.dump(found, file)",
        "from PIL import Image; image.save(path)",
        "figure.savefig(path)",
    ],
)
def test_a_write_to_a_path_is_seen(line: str) -> None:
    assert len(found_in(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "path.open()",
        "path.open('rb')",
        "np.savez(stream, a=1)",
        "torch.save(state, stream)",
        "trial.save(folder)",
        "from PIL import Image; file = io.BytesIO(); image.save(file, 'PNG')",
    ],
)
def test_what_writes_to_no_path_is_let_be(line: str) -> None:
    assert found_in(line) == []


def test_every_file_is_written_by_one() -> None:
    sources = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert set(ELSEWHERE) <= set(sources)
    found = {name: found_in(path.read_text("utf-8")) for name, path in sources.items()}
    assert {name: calls for name, calls in found.items() if calls and name not in ELSEWHERE} == {}
    assert [name for name in ELSEWHERE if not found[name]] == []
