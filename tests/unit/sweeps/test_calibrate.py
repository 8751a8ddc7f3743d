from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.planned import request
from usseg_ray.core.config import flatten
from usseg_ray.core.errors import UserError
from usseg_ray.ops.context import USUAL
from usseg_ray.sweeps.calibrate import described
from usseg_ray.sweeps.plan import Plan, make_plan
from usseg_ray.sweeps.request import Request

SMALL: dict[str, Any] = {
    "backbone.name": "textons",
    "data.train_size": 24,
    "data.eval_size": 32,
    "num_clusters": 3,
}


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USSEG_FEATURES", str(tmp_path / "features"))
    return write(tmp_path / "many", 50)


def write(root: Path, rows: int, *, labelled: bool = True) -> Path:
    tiny.write(root, labelled=labelled, splits={**tiny.SPLITS, "train": rows})
    return root


def planned(data: Path, names: list[str], **changed: Any) -> Plan:
    assigned = SMALL | changed.pop("assigned", {})
    asked = {"num_samples": 1, "space": None, "calibrate": "on"} | changed
    return make_plan(request(names=names, data=str(data), assigned=assigned, **asked))


def settings(plan: Plan, method: str) -> dict[str, Any]:
    return flatten(plan.job(method, {}).config)


def test_settings_follow_from_the_data_and_say_why(many: Path) -> None:
    plan = planned(many, ["stego"])
    found, calibration = settings(plan, "stego"), plan.calibration
    assert calibration is not None
    assert calibration.statistics is not None
    within = calibration.statistics.within
    assert found["method.shift_intra"] == pytest.approx(within.above(0.6), abs=1e-3)
    assert found["train.epochs"] * found["train.steps_per_epoch"] == 240
    assert found["method.lr"] == 0.01
    assert (found["data.crops"], found["data.crop_ratios"]) == ("five", [0.75])
    kept = {one.key: one for one in calibration.choices["stego"]}
    assert all(found[key] == one.value for key, one in kept.items())
    assert kept["method.shift_intra"].paper == 0.45
    assert "60 % of pairs within an image" in kept["method.shift_intra"].rule
    assert "50 training images" in described(calibration)[-1]


def test_what_is_given_is_left_alone(many: Path) -> None:
    given = {"method.shift_intra": 0.3, "train.epochs": 2, "data.flip": True}
    found = settings(planned(many, ["stego"], assigned=given), "stego")
    without = settings(planned(many, ["stego"], assigned=given, calibrate="off"), "stego")
    calibrated = {key for key, value in found.items() if value != without[key]}
    shifts = {"method.shift_inter", "method.shift_negative"}
    assert calibrated == {"method.lr", "method.context", *shifts}


def test_off_and_presets_keep_the_published_settings(many: Path) -> None:
    off = planned(many, ["stego"], calibrate="off")
    assert off.calibration is None
    assert settings(off, "stego")["train.steps_per_epoch"] == 500
    sizes = {"data.train_size": 224, "data.eval_size": 320}
    preset = planned(many, ["stego"], preset="stego-cocostuff27", assigned=sizes)
    assert preset.calibration is None
    assert settings(preset, "stego")["method.shift_intra"] == 0.08


def test_labels_change_nothing(many: Path, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare", 50, labelled=False)
    names = ["stego", "hp", "cause", "smooseg", "primaps", "equss", "ppap", "acseg"]
    first, second = (planned(data, names).calibration for data in (many, bare))
    assert first is not None
    assert second is not None
    assert first.statistics == second.statistics
    assert first.choices == second.choices


def test_a_shipped_space_draws_around_what_was_calibrated(many: Path) -> None:
    plan = planned(many, ["stego", "hp"], num_samples=4, space="own")
    assert plan.calibration is not None
    ends = {one.key: one.ends for one in plan.calibration.choices["stego"] if one.ends}
    assert {"method.shift_intra", "method.shift_inter"} <= set(ends)
    for key, (low, high) in ends.items():
        assert low <= settings(plan, "stego")[key] <= high
        drawn = [sample[key] for sample in plan.parts[0].samples[2:]]
        assert all(low <= value <= high for value in drawn)
        assert len(set(drawn)) == 2
    # Calibrated without ends: the published range says nothing here.
    assert "method.consistency_weight" not in plan.parts[1].space.space
    assert plan.parts[1].samples[0] == {}


def test_the_second_trial_has_the_published_values(many: Path) -> None:
    first, second, *others = planned(many, ["stego"], num_samples=4, space="own").parts[0].samples
    assert (first, len(others)) == ({}, 2)
    published = settings(planned(many, ["stego"], calibrate="off"), "stego")
    assert {"method.shift_intra", "method.shift_inter"} <= set(second)
    assert all(published[key] == value for key, value in second.items())
    assert planned(many, ["stego"], num_samples=1, space="own").parts[0].samples == ({},)


def test_a_space_of_ones_own_is_drawn_as_it_is_written(many: Path, tmp_path: Path) -> None:
    own = tmp_path / "stego.yaml"
    own.write_text("space: {method.shift_intra: {uniform: [0.01, 0.02]}}")
    plan = planned(many, ["stego"], num_samples=3, space=str(own))
    drawn = [sample["method.shift_intra"] for sample in plan.parts[0].samples[1:]]
    assert all(0.01 <= value <= 0.02 for value in drawn)


def test_codes_are_described_in_context_unless_that_is_given(many: Path) -> None:
    assert settings(planned(many, ["stego"]), "stego")["method.context"] == USUAL
    own = planned(many, ["stego"], assigned={"method.context": None})
    assert settings(own, "stego")["method.context"] is None
    assert settings(planned(many, ["kmeans"]), "kmeans")["method.context"] is None


def test_few_images_keep_published_thresholds_and_say_so(tmp_path: Path) -> None:
    plan = planned(write(tmp_path / "few", 20), ["stego"])
    assert plan.calibration is not None
    assert plan.calibration.statistics is None
    assert settings(plan, "stego")["method.shift_intra"] == 0.45
    assert settings(plan, "stego")["train.epochs"] == 4
    assert any("20 training images" in said for said in described(plan.calibration))


def test_effort_changes_the_schedule_alone(many: Path) -> None:
    quick, full = (planned(many, ["stego"], effort=effort) for effort in ("quick", "full"))
    short, long = settings(quick, "stego"), settings(full, "stego")
    assert short["train.epochs"] * short["train.steps_per_epoch"] == 80
    assert (long["train.epochs"], long["train.steps_per_epoch"]) == (10, 500)
    assert long["method.lr"] == 5e-4
    assert long["data.crops"] == "random"
    assert short["method.shift_intra"] == long["method.shift_intra"]


def test_a_backbone_without_attention_has_hp_take_cosines(many: Path) -> None:
    assert settings(planned(many, ["hp"]), "hp")["method.affinity"] == "cosine"


def test_a_run_goes_on_with_what_was_calibrated(many: Path, tmp_path: Path) -> None:
    plan = planned(many, ["smooseg"])
    plan.request.begun("key", plan.calibration).save(tmp_path)
    again = make_plan(Request.load(tmp_path))
    assert again.calibration == plan.calibration
    assert settings(again, "smooseg") == settings(plan, "smooseg")
    before = planned(many, ["smooseg"], calibrate="off")
    before.request.begun("key", None).save(tmp_path)
    assert make_plan(Request.load(tmp_path)).calibration is None


def test_data_that_changed_since_are_noticed(many: Path, tmp_path: Path) -> None:
    plan = planned(many, ["smooseg"])
    plan.request.begun("key", plan.calibration).save(tmp_path)
    for path in (many / "manifest.json", *(many / "shards").iterdir()):
        path.unlink()
    write(many, 51)
    with pytest.raises(UserError, match="have changed since this run was calibrated"):
        make_plan(Request.load(tmp_path))


def test_a_method_that_only_clusters_has_nothing_to_calibrate(many: Path) -> None:
    plan = planned(many, ["kmeans"])
    assert plan.calibration is not None
    assert plan.calibration.choices == {}
    assert described(plan.calibration) == []


def test_an_effort_without_calibration_is_refused(many: Path) -> None:
    with pytest.raises(UserError, match="--effort quick is for --calibrate on"):
        planned(many, ["stego"], calibrate="off", effort="quick")


@pytest.mark.parametrize("how", ["centred", "standardised"])
@pytest.mark.parametrize("calibrate", ["on", "off"])
def test_what_tokens_are_normalised_by_is_measured_once_and_kept(
    many: Path, tmp_path: Path, how: str, calibrate: str
) -> None:
    asked = {"backbone.normalise": how}
    plan = planned(many, ["stego", "kmeans"], assigned=asked, calibrate=calibrate)
    assert plan.calibration is not None
    keys = ["backbone.token_mean", "backbone.token_std"][: 1 + (how == "standardised")]
    assert [one.key for one in plan.calibration.tokens] == keys
    for method in ("stego", "kmeans"):
        found = settings(plan, method)
        assert all(
            found[key] == one.value for key, one in zip(keys, plan.calibration.tokens, strict=True)
        )
    assert f"Tokens are {how} for all methods" in described(plan.calibration)[-1]
    assert ("stego" in plan.calibration.choices) == (calibrate == "on")
    plan.request.begun("key", plan.calibration).save(tmp_path)
    again = make_plan(Request.load(tmp_path))
    assert settings(again, "stego") == settings(plan, "stego")


def test_normalisation_is_not_for_a_space(many: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("space:\n  backbone.normalise: {choice: [raw, centred]}\n")
    with pytest.raises(UserError, match="normalise = centred is measured once for all"):
        planned(many, ["kmeans"], space=str(space), num_samples=2)
