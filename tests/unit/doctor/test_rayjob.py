"""Every planted fault of a RayJob is found, and a file that is filled out is clean."""

import pytest
import yaml

from tests.conftest import PROJECT
from usseg_ray.doctor.rayjob import check_rayjob

HERE = {"ray": "2.60.0", "boto3": "1", "google-api-python-client": "2"}


JOB = {
    "no token": ("authOptions: {mode: token}", "authOptions: {}", "authOptions"),
    "another Ray": ('"2.60.0"', '"2.59.0"', "rayVersion"),
    "unpinned image": ("filled-out:1", "rayproject/ray", "image"),
    "image of another Ray": ("filled-out:1", "rayproject/ray:2.59.0", "image"),
    "small shared memory": ("mountPath: /dev/shm", "mountPath: /shm", "volumeMounts"),
    "cluster stays": ("shutdownAfterJobFinishes: true", "suspend: false", "shutdown"),
    "no entrypoint": ("entrypoint:", "entry:", "spec"),
    "number for text": ('num-cpus: "0"', "num-cpus: 0", "rayStartParams"),
}


def job_text() -> str:
    path = PROJECT / "docs" / "deploy" / "kuberay_rayjob.yaml"
    text = path.read_text("utf-8").replace("EDIT", "filled-out:1")
    return text.replace("authOptions:\n      mode: token", "authOptions: {mode: token}")


def test_the_rayjob_is_clean_once_filled_out() -> None:
    found = check_rayjob(yaml.safe_load(job_text()), "job.yaml", HERE)
    assert [one.level for one in found] == ["ok"]


@pytest.mark.parametrize("fault", JOB)
def test_a_fault_planted_in_a_rayjob_is_found(fault: str) -> None:
    old, new, where = JOB[fault]
    assert old in job_text()
    found = check_rayjob(yaml.safe_load(job_text().replace(old, new)), "job.yaml", HERE)
    assert any(where in one.where and one.level != "ok" for one in found), found
