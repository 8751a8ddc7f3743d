"""The file of what waits for the store: in order, once each, whatever broke off."""

import math
from pathlib import Path

import pytest

from tests.room import no_room
from usseg_ray.core.errors import UserError
from usseg_ray.tracking.spool import MARK_FILE, SPOOL_FILE, Operation, Spool


def logged(step: int) -> Operation:
    return Operation("log", "t", 1000 + step, {"metrics": {"loss": 0.5}, "step": step})


def filled(folder: Path, count: int) -> Spool:
    spool = Spool(folder)
    for step in range(count):
        spool.append(logged(step))
    return spool


def test_operations_come_out_in_order_and_wait_until_they_are_passed(tmp_path: Path) -> None:
    spool = filled(tmp_path, 3)
    first, position = spool.waiting(2)
    assert first == [logged(0), logged(1)]
    assert spool.waiting(9)[0] == [logged(0), logged(1), logged(2)]
    spool.advance(position)
    assert spool.waiting(9)[0] == [logged(2)]
    assert len(spool) == 1


def test_a_later_life_finds_what_waits(tmp_path: Path) -> None:
    spool = filled(tmp_path, 3)
    spool.advance(spool.waiting(1)[1])
    spool.close()
    again = Spool(tmp_path)
    assert again.waiting(9)[0] == [logged(1), logged(2)]
    again.append(logged(3))
    again.advance(again.waiting(2)[1])
    assert again.waiting(9)[0] == [logged(3)]


def test_nothing_is_left_when_nothing_waits(tmp_path: Path) -> None:
    spool = filled(tmp_path, 2)
    spool.advance(spool.waiting(9)[1])
    spool.close()
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_mark_without_its_file_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / MARK_FILE).write_text("40")
    assert filled(tmp_path, 1).waiting(9)[0] == [logged(0)]


def test_a_line_that_broke_off_is_dropped(tmp_path: Path) -> None:
    filled(tmp_path, 2).close()
    file = tmp_path / SPOOL_FILE
    file.write_bytes(file.read_bytes()[:-9])
    spool = Spool(tmp_path)
    spool.append(logged(7))
    assert spool.waiting(9)[0] == [logged(0), logged(7)]


def test_values_that_are_not_numbers_are_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(Operation("log", "t", 0, {"metrics": {"a": math.nan, "b": math.inf}}))
    values = spool.waiting(1)[0][0].data["metrics"]
    assert math.isnan(values["a"])
    assert math.isinf(values["b"])


def test_the_store_is_named_in_the_first_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.address() == ""
    spool.append(Operation("store", None, 0, {"uri": "sqlite:////a/mlflow.db"}))
    spool.append(logged(0))
    assert spool.address() == "sqlite:////a/mlflow.db"


SERVER = Operation("store", None, 0, {"uri": "http://***@lab:5000"})


def test_what_waits_is_for_one_store_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(SERVER)
    spool.append(logged(0))
    spool.check_store("http://anna:pw@lab:5000")
    with pytest.raises(UserError, match=r"2 records wait for .* http://\*\*\*@lab:5000, and"):
        spool.check_store("sqlite:////a/mlflow.db")


def test_where_nothing_waits_any_store_may_follow(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(SERVER)
    spool.advance(spool.waiting(1)[1])
    spool.check_store("sqlite:////a/mlflow.db")
    # A process that is killed here leaves the files.
    spool._file.close()
    later = Spool(tmp_path)
    later.append(Operation("store", None, 0, {"uri": "sqlite:////a/mlflow.db"}))
    later.append(logged(1))
    assert later.address() == "sqlite:////a/mlflow.db"
    assert later.waiting(9)[0][-1] == logged(1)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / SPOOL_FILE).write_text('{"kind": "log"\n')
    with pytest.raises(UserError, match=r"tracking\.jsonl is damaged"):
        Spool(tmp_path)


def test_two_writers_are_refused(tmp_path: Path) -> None:
    spool = filled(tmp_path, 1)
    with pytest.raises(UserError, match="another process"):
        Spool(tmp_path)
    spool.close()
    assert len(Spool(tmp_path)) == 1


@pytest.mark.parametrize("mark", ["4000", "-3", "7", "seven", ""])
def test_a_mark_that_cannot_be_right_passes_nothing_over(tmp_path: Path, mark: str) -> None:
    filled(tmp_path, 3).close()
    (tmp_path / MARK_FILE).write_text(mark)
    spool = Spool(tmp_path)
    spool.append(logged(3))
    assert spool.waiting(9)[0] == [logged(step) for step in range(4)]


@pytest.mark.parametrize("more", [0, 20])
def test_what_does_not_fit_waits_in_memory_and_in_order(tmp_path: Path, more: int) -> None:
    spool = filled(tmp_path, 2)
    whole = (tmp_path / SPOOL_FILE).read_bytes()
    with no_room(tmp_path / SPOOL_FILE, more):
        spool.append(logged(2))
        spool.append(logged(3))
        assert spool.unwritten == 2
        # No line is left broken in the file.
        assert (tmp_path / SPOOL_FILE).read_bytes() == whole
        operations, position = spool.waiting(3)
        assert operations == [logged(0), logged(1), logged(2)]
        spool.advance(position)
        assert (spool.unwritten, len(spool)) == (1, 1)
    spool.append(logged(4))
    assert spool.unwritten == 0
    assert spool.waiting(9)[0] == [logged(3), logged(4)]
    spool.close()
    assert Spool(tmp_path).waiting(9)[0] == [logged(3), logged(4)]


def test_what_was_delivered_from_memory_is_not_delivered_again(tmp_path: Path) -> None:
    spool = filled(tmp_path, 1)
    with no_room(tmp_path / SPOOL_FILE):
        spool.append(logged(1))
        spool.advance(spool.waiting(9)[1])
    spool.append(logged(2))
    assert spool.waiting(9)[0] == [logged(2)]
    spool.advance(spool.waiting(9)[1])
    spool.close()
    assert list(tmp_path.iterdir()) == []
