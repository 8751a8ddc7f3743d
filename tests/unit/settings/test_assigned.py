"""Wrong assignments are refused in a plan's words, and those that may be right are not."""

from typing import Any

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.methods import METHODS
from usseg_ray.settings import SETTINGS
from usseg_ray.settings.assigned import assigned_to, check_alone, check_assigned, flatten_assigned
from usseg_ray.sweeps.plan import make_plan
from usseg_ray.sweeps.request import Request


def test_every_method_has_its_settings_in_the_methods_order() -> None:
    assert [*SETTINGS] == [method.name for method in METHODS]
    assert [*SETTINGS.values()] == [method.Config for method in METHODS]


WRONG: list[tuple[list[str], dict[str, Any]]] = [
    (["acseg"], {"epochs": 1}),
    (["acseg"], {"train.epochs": "x"}),
    (["acseg"], {"method.gama": 1}),
    (["acseg"], {"resources.device": "tpu"}),
    (["acseg"], {"resources.precision": "half"}),
    (["acseg"], {"resources.num_workers": "many"}),
    (["acseg"], {"seed": -1}),
    (["acseg"], {"data.crop_ratios": [0.5, 2]}),
    (["picie"], {"method.network.dim": 0}),
    (["acseg", "kmeans"], {"epochs": 1}),
    (["acseg", "kmeans"], {"method.gamma": 0}),
    (["acseg", "kmeans"], {"method.dim": 8}),
    (["kmeans", "acseg"], {"method.norm": "batch"}),
]


@pytest.mark.parametrize(("names", "assigned"), WRONG)
def test_what_is_wrong_is_refused_as_a_plan_refuses_it(
    names: list[str], assigned: dict[str, Any]
) -> None:
    asked = Request(methods=dict.fromkeys(names), assigned=assigned)
    with pytest.raises(UserError) as planned:
        make_plan(asked, make_data=False)
    with pytest.raises(UserError) as checked:
        check_assigned(names, assigned)
    assert str(checked.value) == str(planned.value)


@pytest.mark.parametrize(
    "assigned",
    [
        {},
        {"data.crop_jpeg": 75},
        {"data.view_draws": 2},
        {"backbone.timm_args": {"img_size": 224}},
        {"backbone.timm_args.img_size": 224},
        {"method.gamma": 2},
        {"method.origin": {"method": "stego"}, "method.origin.num_clusters": 3},
    ],
)
def test_what_others_may_make_right_is_left_to_the_plan(assigned: dict[str, Any]) -> None:
    name = "primaps" if any("origin" in key for key in assigned) else "acseg"
    check_assigned([name], assigned)


def test_a_fault_elsewhere_hides_none() -> None:
    assigned = {"data.crop_jpeg": 75, "train.epochs": 0}
    with pytest.raises(UserError, match=r"^train\.epochs = 0: "):
        check_alone("acseg", assigned)


def test_of_several_methods_each_gets_what_it_has() -> None:
    assigned = {"method.gamma": 2, "method.restarts": 3, "seed": 1}
    assert assigned_to(["acseg", "position"], assigned) == {
        "acseg": assigned,
        "position": {"method.restarts": 3, "seed": 1},
    }


def test_assigned_mappings_become_keys() -> None:
    assert flatten_assigned({"backbone.timm_args": {"a": 1, "b": {"c": 2}}, "seed": 1}) == {
        "backbone.timm_args.a": 1,
        "backbone.timm_args.b.c": 2,
        "seed": 1,
    }
    assert flatten_assigned({"backbone.timm_args": {}}) == {"backbone.timm_args": {}}
