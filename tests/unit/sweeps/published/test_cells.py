from pathlib import Path

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.prepare.sets import PUBLISHED_SETS
from usseg_ray.sweeps.presets import PRESETS
from usseg_ray.sweeps.published.cells import SETS, table_cells


def names(data: str, methods: str | None = None, backbones: str | None = None) -> list[str]:
    return [cell.name for cell in table_cells(data, methods, backbones)]


def test_the_sets_are_those_that_can_be_prepared_and_have_presets() -> None:
    assert set(SETS) <= set(PUBLISHED_SETS)
    assert set(SETS.values()) <= {preset.data for preset in PRESETS}


def test_all_that_is_published_is_run_as_it_was() -> None:
    expected = [preset.name for preset in PRESETS if preset.data == "cocostuff27"]
    assert sorted(names("cocostuff27")) == sorted(expected)
    assert len(expected) > 6
    assert names("cocostuff27", "all") == names("cocostuff27")


def test_a_method_is_all_its_variants_unless_one_is_named() -> None:
    assert names("cityscapes27", "cause") == ["cause-mlp-cityscapes", "cause-tr-cityscapes"]
    assert names("cityscapes27", "cause-tr, stego") == ["stego-cityscapes", "cause-tr-cityscapes"]


def test_each_method_runs_on_each_backbone_by_the_nearest_settings() -> None:
    assert names("cocostuff27", "stego") == ["stego-cocostuff27", "stego-vitb8-cocostuff27"]
    assert names("cocostuff27", "stego", "dino_b8,dinov3_s16") == [
        "stego-vitb8-cocostuff27-dino_b8",
        "stego-cocostuff27-dinov3_s16",
    ]
    assert names("cocostuff27", "cause", "dino_b8") == [
        "cause-mlp-cocostuff27-dino_b8",
        "cause-tr-cocostuff27-dino_b8",
    ]


def test_a_run_is_asked_for_under_the_published_protocol() -> None:
    (cell,) = table_cells("cocostuff27", "acseg", "dinov2_s14")
    request = cell.request("there", 2, {"data.eval_size": 28})
    assert (request.methods, request.preset) == ({"acseg": None}, "acseg-cocostuff27")
    assert (request.num_samples, request.finalists, request.seeds) == (1, 1, 2)
    expected = {"backbone.name": "vit_small_patch14_dinov2.lvd142m", "protocol": "stego-322"}
    assert request.assigned.items() >= expected.items()
    assert request.assigned["data.eval_size"] == 28


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("acseg", "acseg: no settings are published for potsdam3. There are those of: kmeans"),
        ("stegoo", r"Unknown method: 'stegoo'; did you mean 'stego'\?"),
        ("cause-tr", r"Unknown method: 'cause-tr'"),
    ],
)
def test_a_method_without_settings_is_refused(methods: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        table_cells("potsdam3", methods, None)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / place / "vit.yaml" for place in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text("name: test_vit\n")
    with pytest.raises(UserError, match="stego-potsdam3-vit: two backbones have one name"):
        table_cells("potsdam3", "stego", ",".join(map(str, files)))
