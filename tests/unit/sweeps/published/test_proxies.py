"""Settings of PPAP as they are published."""

from usseg_ray.settings.ppap import PPAPConfig
from usseg_ray.sweeps.published.proxies import PROXIES

SETTINGS = {preset.name: preset.settings for preset in PROXIES}


def test_what_a_preset_leaves_out_is_that_of_the_first() -> None:
    assert list(SETTINGS) == [
        "ppap-cocostuff27",
        "ppap-vits16-cocostuff27",
        "ppap-cityscapes",
        "ppap-vitb8-cityscapes",
        "ppap-potsdam3",
    ]
    plain = PPAPConfig()
    zones = [
        tuple(
            SETTINGS[name].get(f"method.{key}", getattr(plain, key))
            for key in ("positive", "negative", "split", "temperature", "rounds")
        )
        for name in SETTINGS
    ]
    assert zones == [
        (0.55, 0.2, 16, 0.8, 2),
        (0.55, 0.15, 4, 0.8, 2),
        (0.6, 0.2, 16, 0.8, 3),
        (0.6, 0.2, 16, 0.1, 3),
        (0.55, 0.15, 16, 0.07, 1),
    ]
    # Adam as theirs is AdamW that does not decay.
    decays = [settings.get("method.weight_decay", 0.1) for settings in SETTINGS.values()]
    assert decays == [0.1, 0.01, 0, 0, 0]
    assert {settings["method.clustering"] for settings in SETTINGS.values()} == {"probe"}
