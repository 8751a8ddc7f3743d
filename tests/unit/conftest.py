"""What a command would have run, in place of running it."""

from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from usseg_ray.sweeps.request import Request


class Launch(NamedTuple):
    """What a command hands over to be run."""

    request: "Request | None"
    out: str | None
    resume: str | None
    dry_run: bool


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What `tune` and `train` would have run, in order."""
    from usseg_ray.sweeps import launch

    found: list[Launch] = []

    def keep(
        request: "Request | None", out: str | None, resume: str | None, *, dry_run: bool
    ) -> None:
        found.append(Launch(request, out, resume, dry_run))

    monkeypatch.setattr(launch, "launch", keep)
    return found
