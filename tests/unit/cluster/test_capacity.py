"""How far a cluster can grow: from the launcher's file, or from a variable."""

import pytest
import yaml

from tests.conftest import PROJECT
from usseg_ray.cluster.capacity import declared, launchable
from usseg_ray.core.errors import UserError


def test_spot_and_on_demand_machines_share_the_limit() -> None:
    spec = yaml.safe_load((PROJECT / "cluster.yaml").read_text("utf-8"))
    assert launchable(spec) == {"CPU": 32.0, "GPU": 4.0}


def test_the_largest_types_count_first_and_the_head_does_not() -> None:
    types = {
        "head": {"resources": {"CPU": 64}},
        "small": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 2},
        "large": {"resources": {"CPU": 16}, "max_workers": 2},
    }
    spec = {"head_node_type": "head", "max_workers": 3, "available_node_types": types}
    assert launchable(spec) == {"CPU": 36.0, "GPU": 2.0}
    assert launchable({"max_workers": 3}) == {}


def test_the_variable_of_the_kubernetes_file_is_what_its_workers_come_to() -> None:
    spec = yaml.safe_load((PROJECT / "docs/deploy/kuberay_rayjob.yaml").read_text("utf-8"))
    cluster = spec["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    given = {one["name"]: one["value"] for one in head["env"]}
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    count = group["maxReplicas"]
    wanted = {"CPU": count * float(limits["cpu"]), "GPU": count * float(limits["nvidia.com/gpu"])}
    assert declared(given["USSEG_CAPACITY"]) == wanted
    assert declared("") == {}


@pytest.mark.parametrize("text", ["CPU", "CPU=many", "CPU=1=2"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="CPU=32,GPU=4"):
        declared(text)
