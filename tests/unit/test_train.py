"""The options of `train` become a request of one run; what runs it has tests of its own."""

import pytest
from typer.testing import CliRunner

from usseg_ray.sweeps import launch
from usseg_ray.sweeps.request import Request
from usseg_ray.train import app

Launched = tuple[Request | None, str | None, str | None, bool]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Launched]:
    """What the command would have run."""
    found: list[Launched] = []

    def keep(
        request: Request | None, out: str | None, resume: str | None, *, dry_run: bool
    ) -> None:
        found.append((request, out, resume, dry_run))

    monkeypatch.setattr(launch, "launch", keep)
    return found


def test_one_run_of_one_method_with_its_defaults(launched: list[Launched]) -> None:
    arguments = ["--method", "kmeans", "--set", "num_clusters=5", "--device", "cpu"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    ((request, out, resume, dry_run),) = launched
    assert request is not None
    # Without a search space: nothing is drawn.
    assert request.methods == {"kmeans": None}
    assert (request.num_samples, request.finalists, request.seeds) == (1, 1, 1)
    assert request.assigned == {"num_clusters": 5, "resources.device": "cpu"}
    assert (out, resume, dry_run) == (None, None, False)


def test_who_resumes_asks_nothing_new(launched: list[Launched]) -> None:
    assert CliRunner().invoke(app, ["--resume", "earlier", "--dry-run"]).exit_code == 0
    assert launched == [(None, None, "earlier", True)]
