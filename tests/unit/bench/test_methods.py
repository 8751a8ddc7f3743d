import pytest

from usseg_ray.bench.methods import _official, method_bars
from usseg_ray.bench.works import Sizes

SMALL = Sizes(
    images=2,
    side=4,
    features=16,
    dim=8,
    pool=8,
    code_dim=6,
    samples=3,
    negatives=2,
    tokens=12,
    codes=16,
    projection=8,
    entries=4,
    cluster_images=2,
    cluster_side=6,
    cluster_dim=8,
    clusters=3,
    graphs=2,
    patches=30,
    concepts=2,
)


@pytest.mark.parametrize("rewrite", [7.8, 12.9])
def test_a_rewrite_near_the_record_is_the_reference(rewrite: float) -> None:
    words, seconds = _official(rewrite, 10.0)
    assert seconds == rewrite
    assert words.startswith("official form, rewritten")


@pytest.mark.parametrize("rewrite", [7.6, 13.1])
def test_a_rewrite_far_from_the_record_is_not(rewrite: float) -> None:
    words, seconds = _official(rewrite, 10.0)
    assert seconds == 10.0
    assert words == f"official record, scaled (rewrite: {rewrite / 10:.2f} of it)"


@pytest.mark.slow
def test_every_bar_is_measured() -> None:
    bars = list(method_bars(SMALL, full=True))
    assert [(bar.what, bar.unit, bar.limit is not None) for bar in bars] == [
        ("HP contrastive loss", "CPU s", True),
        ("HP contrastive loss", "CPU s", True),
        ("HP contrastive loss", "GB", True),
        ("HP local propagation", "CPU s", True),
        ("HP weights of neighbours", "CPU s", False),
        ("CAUSE clusterbook loss", "CPU s", True),
        ("CAUSE clusterbook loss", "CPU s", False),
        ("CAUSE clusterbook loss", "GB", True),
        ("CAUSE clusterbook loss, 1600 tokens", "GB", True),
        ("CAUSE concept loss + bank, 64 entries", "CPU s", True),
        ("PiCIE assignment + update", "CPU s", True),
        ("PiCIE labelling", "CPU s", True),
        ("STEGO correspondence loss", "CPU s", True),
        ("ACSeg loss", "GB", True),
        ("HP contrastive loss, 64 images", "GB", True),
        ("CAUSE bank upkeep, 1,600 entries", "CPU s", True),
        ("CAUSE concept loss + bank, 1,600 entries", "CPU s", False),
    ]
    for bar in bars:
        assert 0 <= bar.value < 60
        assert 0 < (bar.reference_value or 0) < 200
        assert bar.value > 0 or bar.unit == "GB"
