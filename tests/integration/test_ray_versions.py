"""What streams, extracts and predicts runs on the lowest Ray that is allowed, and on the newest.

Each gets an environment of its own, which has Ray before all else and the rest from this one.
"""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import PROJECT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.lengthy]

SUITES = ("test_pipeline", "test_feature_actors", "test_predict", "test_bench_stream")


def lowest() -> str:
    """Reads from pyproject.toml which Ray is the lowest allowed."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    (ray,) = (one for one in map(Requirement, project["dependencies"]) if one.name == "ray")
    (floor,) = (one.version for one in ray.specifier if one.operator == ">=")
    return f"ray=={floor}"


@pytest.mark.parametrize("wanted", [lowest(), "ray"], ids=["lowest", "newest"])
def test_streams_run_on_it(wanted: str, tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / "bin" / "python"
    quiet = ("-q", "--disable-pip-version-check", "--no-deps")
    subprocess.run([python, "-m", "pip", "install", *quiet, wanted], check=True, timeout=900)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path)}))
    here = sysconfig.get_path("purelib")
    (own / "rest.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    asked = "import ray; print(ray.__version__, ray.__file__)"
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    found = subprocess.check_output([python, "-c", asked], env=environment, text=True)
    assert str(tmp_path) in found
    files = [f"tests/integration/{name}.py" for name in SUITES]
    options = ("-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'temp'}")
    done = subprocess.run(
        [python, "-m", "pytest", *options, *files],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
        check=False,
    )
    sys.stdout.write(f"Ray {found}{done.stdout[-4000:]}")
    assert done.returncode == 0, done.stdout[-4000:]
