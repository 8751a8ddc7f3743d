"""No secret that a command is given is written anywhere: a sweep is run, and all of it searched."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from tests import tiny
from tests.integration.bucket import bucket
from tests.ledgers import free_port, serving
from usseg_ray.core.files import resolve

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PLANTED = "HUNTERtwo"
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": PLANTED,
    "AWS_SESSION_TOKEN": PLANTED,
    "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=a;AccountKey={PLANTED}==",
    "AZURE_STORAGE_SAS_TOKEN": f"sv=2024&sig={PLANTED}",
    "HF_TOKEN": f"hf_{PLANTED}",
    "MLFLOW_TRACKING_PASSWORD": PLANTED,
    "PGPASSWORD": PLANTED,
    "WANDB_API_KEY": PLANTED,
}
REFUSED = {
    "a key in the data's address": ("--data", f"s3://ID:{PLANTED}@bucket/set"),
    "a signature in the data's address": (
        "--data",
        f"https://b.s3.amazonaws.com/set?X-Amz-Signature={PLANTED}",
    ),
    "a key in the run's address": ("--out", f"s3://bucket/run?secret_key={PLANTED}"),
    "a password in a setting": ("--set", f"backbone.weights=https://me:{PLANTED}@host/w"),
}
SETTINGS = {
    **{k: v for k, v in tiny.SETTINGS.items() if k not in ("data.name", "train.epochs")},
    "resources.num_workers": 0,
}


@pytest.fixture
def short() -> Iterator[str]:
    """A folder for Ray, whose sockets have long names."""
    folder = tempfile.mkdtemp(dir="/tmp", prefix="ray-")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def command(folder: Path, environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    (folder / f"{len(list(folder.glob('*.log')))}.log").write_text(done.stdout + done.stderr)
    return done.returncode, done.stdout + done.stderr


def fetched(environment: dict[str, str], target: Path) -> int:
    """Copies all of the bucket."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        filesystem, root = resolve("s3://bucket")
        found = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
        files = [info.path for info in found if info.type == pafs.FileType.File]
        for number, path in enumerate(files):
            with filesystem.open_input_stream(path) as stream:
                (target / f"{number}").write_bytes(stream.read())
    return len(files)


def with_secrets(*folders: Path) -> list[str]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if PLANTED.encode() in path.read_bytes()]


def test_no_secret_is_at_rest(tmp_path: Path, short: str) -> None:
    tiny.write(tmp_path / "set")
    work, store, copy = (tmp_path / name for name in ("work", "store", "copy"))
    for folder in (work, store, copy):
        folder.mkdir()
    sets = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    options = ["--method", "kmeans", "--num-samples", "1", "--finalists", "1", "--seeds", "1"]
    port = free_port()
    with bucket() as reached, serving(store, port):
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        environment |= reached | ENVIRONMENT | {"RAY_TMPDIR": short}
        environment["MLFLOW_TRACKING_URI"] = f"http://anna:{PLANTED}@127.0.0.1:{port}"
        asked = ["usseg_ray.tune", *options, "--data", str(tmp_path / "set"), *sets]
        for what, refused in REFUSED.items():
            ended, said = command(work, environment, *asked, *refused)
            assert ended == 2, f"{what}: {said}"
        assert not (work / "runs").exists()
        ended, said = command(work, environment, *asked, "--out", "s3://bucket/run")
        assert ended == 0, said
        ended, said = command(work, environment, "usseg_ray.report", "--out", "report.html")
        assert ended == 0, said
        assert (work / "report.html").is_file()
        assert fetched(environment, copy) > 10
        assert with_secrets(work, store, copy, Path(short)) == []
