from usseg_ray.core.config import JitterConfig
from usseg_ray.core.views import Crops, FixedView, Frame

FRAME = Frame(32)
CROPS = Crops("five", scale=0.5, ratios=(0.5,))


def test_what_decides_random_crops_alone_names_no_other_view() -> None:
    assert FixedView.of(FRAME, CROPS) == FixedView.of(FRAME, Crops("five", scale=0.8))
    assert {FixedView.of(FRAME, CROPS): 1}[FixedView.of(FRAME, Crops("five"))] == 1


def test_what_changes_pixels_makes_another_view() -> None:
    view = FixedView.of(FRAME, CROPS)
    views = [
        view,
        FixedView.of(FRAME),
        FixedView.of(Frame(32, filter="nearest"), CROPS),
        FixedView.of(FRAME, Crops("ten")),
        FixedView.of(FRAME, Crops("five", jpeg=95)),
        view.recoloured(1, JitterConfig()),
        view.recoloured(2, JitterConfig()),
        view.recoloured(1, JitterConfig(blur=0)),
    ]
    assert len(set(views)) == len(views)
