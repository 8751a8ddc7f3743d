import pytest

from tests import tiny
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Frame
from usseg_ray.scoring.protocols import (
    DEFAULT,
    PLAIN,
    PROTOCOLS,
    Refinement,
    find_protocol,
    protocol_settings,
    stamp,
)


def test_every_protocol_is_found_by_its_name() -> None:
    for name, protocol in PROTOCOLS.items():
        assert find_protocol(name) is protocol
        assert protocol.name == name
        assert protocol.summary
    assert tiny.config().protocol == DEFAULT


def test_official_frames() -> None:
    assert find_protocol("stego-320").frame(448) == Frame(320, "centre", "nearest")
    assert find_protocol("picie-320").frame(448) == Frame(320, "centre", "bilinear")
    assert find_protocol("cause-voc").frame(448) == Frame(320, "squash", "nearest")
    assert find_protocol("full-resolution").frame(448) == Frame(448, "whole", "bilinear")
    assert find_protocol("stego-320").upsampled == find_protocol("cause-voc").upsampled == "codes"
    assert protocol_settings("stego-320") == {"data.eval_size": 320}
    assert protocol_settings(DEFAULT) == {}


def test_an_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'stego320'; did you mean 'stego-320'\? Protocols: cen"):
        find_protocol("stego320")


@pytest.mark.parametrize(
    ("name", "clusters", "classes", "message"),
    [
        ("stego-320", 54, 27, r"is for K = 27, the number of classes, and K is 54"),
        ("voc-21", 27, 27, r"voc-21 is for 21 classes, and the data has 27"),
        ("over-clustered", 27, 27, r"is for K above 27, the number of classes, and K is 27"),
    ],
)
def test_what_a_protocol_is_not_defined_for(
    name: str, clusters: int, classes: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find_protocol(name).check(clusters, classes)


def test_what_a_protocol_is_defined_for() -> None:
    find_protocol("stego-320").check(27, 27)
    find_protocol("over-clustered").check(54, 27)
    find_protocol(DEFAULT).check(8, 27)


def test_refinements_are_read_in_any_order() -> None:
    both = Refinement.parse("crf+flip")
    assert both == Refinement(("flip", "crf"))
    assert (str(both), both.prefix) == ("flip+crf", "flip_crf.")
    assert (str(PLAIN), PLAIN.prefix) == ("no refiner", "")
    assert "flip" in both
    assert "sliding" not in both


@pytest.mark.parametrize("text", ["", "flop", "flip+flip", "flip,crf", "flip+"])
def test_an_unknown_refinement_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="a combination of flip, sliding, anyup, guided, crf"):
        Refinement.parse(text)


def test_a_stamp_says_what_a_score_depends_on() -> None:
    config = tiny.config(backbone__note="trained with labels")
    assert stamp(config, "tiny", "test") == (
        "tiny test, centre-crop: centre square at short side 32, bilinear, one-to-one; "
        "textons (trained with labels)"
    )
    other = tiny.config(protocol="full-resolution")
    assert "full-resolution: whole images at short side 32" in stamp(other, "tiny", "test")
