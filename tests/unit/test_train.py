"""The options of `train` become a request of one run; what runs it has tests of its own."""

from typer.testing import CliRunner

from tests.unit.conftest import Launch
from usseg_ray.train import app


def test_one_run_of_one_method_with_its_defaults(launched: list[Launch]) -> None:
    arguments = ["--method", "kmeans", "--set", "num_clusters=5", "--device", "cpu"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    ((request, out, resume, dry_run),) = launched
    assert request is not None
    # Without a search space: nothing is drawn.
    assert request.methods == {"kmeans": None}
    assert (request.num_samples, request.finalists, request.seeds) == (1, 1, 1)
    assert request.assigned == {"num_clusters": 5, "resources.device": "cpu"}
    assert (out, resume, dry_run) == (None, None, False)


def test_who_resumes_asks_nothing_new(launched: list[Launch]) -> None:
    assert CliRunner().invoke(app, ["--resume", "earlier", "--dry-run"]).exit_code == 0
    assert launched == [(None, None, "earlier", True)]
