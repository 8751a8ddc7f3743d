import json

import pytest

from usseg_ray.core.calibration import SHARES, Calibration, Choice, Cosines, Statistics


def even(shift: float = 0.0) -> Cosines:
    """Makes pairs of which a share s lies above 1 - s."""
    return Cosines(levels=tuple(1 - share + shift for share in SHARES))


def test_a_share_of_pairs_lies_above_a_cosine_that_is_read_between_levels() -> None:
    assert even().above(0.65) == pytest.approx(0.35)
    assert even(0.1).above(SHARES[0]) == pytest.approx(1.1 - SHARES[0])
    assert even().above(SHARES[-1]) == pytest.approx(1 - SHARES[-1])
    with pytest.raises(ValueError, match=r"share 0\.999 is not within"):
        even().above(0.999)


def test_a_calibration_is_read_as_it_was_written() -> None:
    facts = Statistics(
        images=96,
        within=even(),
        similar=even(-0.1),
        random=even(-0.2),
        effective_rank=12.5,
        position_share=0.1,
    )
    choice = Choice(key="data.crop_ratios", value=[0.7], paper=[0.5], rule="as in scoring")
    written = Calibration(data="digest", statistics=facts, choices={"stego": (choice,)})
    text = json.dumps(written.model_dump(mode="json"))
    assert Calibration.model_validate_json(text) == written
