"""A finding says what to do exactly where there is something to do."""

from collections.abc import Callable

import pytest

from usseg_ray.doctor.finding import Finding, error, ok, warning


@pytest.mark.parametrize(("make", "level"), [(error, "error"), (warning, "warning")])
def test_what_is_wrong_comes_with_its_mend(
    make: Callable[[str, str, str], Finding], level: str
) -> None:
    found = make("The disk is full.", "/runs", "rm -r /runs/old")
    assert (found.level, found.what, found.where, found.fix) == (
        level,
        "The disk is full.",
        "/runs",
        "rm -r /runs/old",
    )


def test_what_is_right_has_none() -> None:
    assert ok("It answers.", "port 5000") == Finding("ok", "It answers.", "port 5000", "")
