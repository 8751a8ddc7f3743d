"""Tracking servers that are away, refuse their own name or answer any; clocks; buckets."""

import email.utils
import socket
import time
from pathlib import Path

import pytest

from tests.asked import answering
from usseg_ray.doctor import stores
from usseg_ray.doctor.finding import Finding


def level_of(found: list[Finding], word: str) -> str:
    (one,) = [one for one in found if word in one.what]
    assert (one.fix == "") == (one.level == "ok")
    return one.level


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_server_with_a_host_check_is_fine() -> None:
    with answering(hosts=("127.0.0.1",)) as url:
        found = stores.check_tracking(url)
    assert level_of(found, "answers") == "ok"
    assert level_of(found, "clocks") == "ok"
    assert [one.level for one in found] == ["ok", "ok"]


def test_a_server_that_answers_any_host_is_a_warning() -> None:
    with answering() as url:
        assert level_of(stores.check_tracking(url), "any host name") == "warning"


def test_a_server_that_refuses_its_own_address_is_an_error() -> None:
    with answering(hosts=("mlflow.example",)) as url:
        assert level_of(stores.check_tracking(url), "host check") == "error"


def test_a_server_that_wants_a_password_is_an_error() -> None:
    with answering(authorization="Basic eDp5") as url:
        assert level_of(stores.check_tracking(url), "password") == "error"


def test_a_server_that_is_away_is_an_error_within_seconds() -> None:
    start = time.monotonic()
    found = stores.check_tracking(f"http://127.0.0.1:{closed_port()}")
    assert level_of(found, "does not answer") == "error"
    assert time.monotonic() - start < 5


def test_a_clock_that_is_off_is_an_error() -> None:
    with answering(hosts=("127.0.0.1",), date=email.utils.formatdate(0)) as url:
        assert level_of(stores.check_tracking(url), "clocks") == "error"


@pytest.mark.parametrize(("skew", "level"), [(20, "ok"), (-20, "ok"), (400, "error")])
def test_small_differences_of_clocks_are_fine(skew: int, level: str) -> None:
    now = 1_700_000_000
    (found,) = stores.check_clock(email.utils.formatdate(now - skew), now, "there")
    assert found.level == level


def test_a_sqlite_store_is_a_folder_that_can_be_written(tmp_path: Path) -> None:
    assert stores.check_tracking(f"sqlite:///{tmp_path}/mlflow.db")[0].level in ("ok", "error")
    assert stores.check_tracking("sqlite:////proc/self/mlflow.db")[0].level == "error"


def test_a_bucket_out_of_reach_is_an_error_within_seconds() -> None:
    place = f"s3://x:y@bucket/data?endpoint_override=127.0.0.1:{closed_port()}&scheme=http"
    start = time.monotonic()
    (found,) = stores.check_place(place, patience_s=2.0)
    assert found.level == "error"
    assert "cannot be reached" in found.what
    assert found.where.startswith("s3://***@bucket/data")
    assert time.monotonic() - start < 5


def test_a_folder_by_uri_is_looked_for(tmp_path: Path) -> None:
    assert stores.check_place(tmp_path.as_uri())[0].level == "ok"
    assert stores.check_place(f"{tmp_path.as_uri()}/none")[0].level == "warning"
