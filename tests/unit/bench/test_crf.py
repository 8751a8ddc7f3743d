"""The CRF's benchmark measures both refiners, or says that there is one; how fast is no matter."""

import importlib.util

import pytest

from usseg_ray.bench.crf import crf_bars, make_case
from usseg_ray.core.machine import usable_cpus
from usseg_ray.scoring import crf


def test_both_refiners_are_measured() -> None:
    pytest.importorskip("pydensecrf", reason="pydensecrf2 was not built")
    filtered, enlarged, exact, same = crf_bars(side=48, classes=11)
    assert enlarged.what == "AnyUp, 48 px of 16-px patches, 11 classes"
    assert enlarged.value > 0
    assert filtered.what == "guided filter, 48 px, 11 classes"
    assert filtered.reference_value == exact.value
    assert filtered.value > 0
    assert exact.what.startswith("exact CRF, 48 px, 11 classes, ")
    assert exact.reference == f"pydensecrf2, {usable_cpus()} processes"
    assert exact.value > 0
    assert exact.reference_value
    assert same.reference_value
    assert 90 < same.value <= 100
    assert same.reference_value < same.value


def test_without_the_package_ours_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(crf, "find_spec", lambda name: None if name == "pydensecrf" else find(name))
    *_, exact = crf_bars(side=32, classes=10)
    assert exact.value > 0
    assert exact.ratio is None
    assert "not installed" in exact.reference


def test_the_picture_has_colours_and_the_unaries_all_classes() -> None:
    log_probs, pixels = make_case(64, 12)
    assert log_probs.shape == (1, 12, 64, 64)
    assert pixels.shape == (1, 3, 64, 64)
    assert len(log_probs.argmax(1).unique()) >= 3
    assert pixels.flatten(2).float().std(2).min() > 5
