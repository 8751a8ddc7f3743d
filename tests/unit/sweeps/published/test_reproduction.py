"""What a table's runs are checked for before anything starts; whole tables run in integration."""

from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from usseg_ray.core.errors import UserError
from usseg_ray.sweeps.published.cells import table_cells
from usseg_ray.sweeps.published.reproduction import reproduce_table
from usseg_ray.sweeps.request import Request

TEXTONS = {"backbone.name": "textons", "backbone.weights": None}


def asked(tmp_path: Path, methods: str = "kmeans", **assigned: Any) -> dict[str, Request]:
    root = tmp_path / "tiny"
    if not root.exists():
        tiny.write(root)
    cells = table_cells("potsdam3", methods, None)
    changed = TEXTONS | {key.replace("__", "."): value for key, value in assigned.items()}
    return {cell.name: cell.request(str(root), 1, changed) for cell in cells}


def begin(requests: dict[str, Request] | None, out: object, resume: str | None = None) -> None:
    published = None if requests is None else "potsdam3"
    reproduce_table(requests, published, None if out is None else str(out), resume, dry_run=True)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"kmeans-potsdam3: --data .* has other classes than pots"):
        begin(asked(tmp_path), None)


def test_what_is_wrong_names_its_run(tmp_path: Path) -> None:
    requests = asked(tmp_path, "kmeans,stego", method__dim=8, data__eval_size=100)
    with pytest.raises(UserError, match=r"kmeans-potsdam3: .*stego-320 is for data\.eval_size=320"):
        begin(requests, None)


def test_a_setting_that_no_method_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"method\.dimm.* None of kmeans, stego has it"):
        begin(asked(tmp_path, "kmeans,stego", method__dimm=8), None)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("s3://bucket/a", "in a folder, not at a URI"),
        ("full", "is not empty: --resume .*full goes"),
    ],
)
def test_a_table_has_an_empty_folder(tmp_path: Path, out: str, message: str) -> None:
    (tmp_path / "full" / "run").mkdir(parents=True)
    place = out if "://" in out else tmp_path / out
    with pytest.raises(UserError, match=message):
        begin(asked(tmp_path), place)


def test_a_folder_without_runs_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run of `reproduce`"):
        begin(None, None, str(tmp_path))
