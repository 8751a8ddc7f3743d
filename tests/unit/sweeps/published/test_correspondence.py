"""Settings of STEGO and EQUSS as they are published."""

import pytest

from usseg_ray.sweeps.published.correspondence import CORRESPONDENCE

SETTINGS = {preset.name: preset.settings for preset in CORRESPONDENCE}


@pytest.mark.parametrize("kind", ["weight", "shift"])
def test_pairs_are_in_their_own_places(kind: str) -> None:
    own = [SETTINGS["stego-cocostuff27"][f"method.{kind}_{pair}"] for pair in ("intra", "negative")]
    assert own == {"weight": [0.67, 0.63], "shift": [0.08, 0.66]}[kind]
    theirs = [
        SETTINGS["equss-cocostuff27"][f"method.{kind}_{pair}"] for pair in ("intra", "negative")
    ]
    assert theirs == {"weight": [0.47, 0.53], "shift": [0.18, 0.23]}[kind]


def test_centroids_are_learnt_as_published() -> None:
    assert {settings["method.clustering"] for settings in SETTINGS.values()} == {"probe"}
