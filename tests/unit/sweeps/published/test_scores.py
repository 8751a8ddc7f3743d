"""Published numbers name data, methods and protocols that exist here."""

import pytest

from usseg_ray import methods
from usseg_ray.prepare.sets import PUBLISHED_SETS
from usseg_ray.scoring.protocols import find_protocol
from usseg_ray.sweeps.published.scores import (
    NETWORKS,
    SCORES,
    PublishedScore,
    find_score,
    published_scores,
)


@pytest.mark.parametrize("score", SCORES, ids=lambda s: f"{s.method}-{s.data}-{s.backbone}")
def test_a_published_score_names_what_exists(score: PublishedScore) -> None:
    assert methods.get(score.method).name == score.method
    assert score.data in PUBLISHED_SETS
    assert find_protocol(score.protocol).name == score.protocol
    assert 0 < score.unsup_miou < 100
    assert score.unsup_acc is None or score.unsup_miou < score.unsup_acc < 100
    assert score.stamp.startswith(f"{score.data} val, {score.protocol}")


def test_no_number_stands_twice() -> None:
    keys = [(s.method, s.variant, s.data, s.backbone) for s in SCORES]
    assert len(keys) == len(set(keys))


def test_those_of_a_data_set_are_found_by_its_name() -> None:
    found = published_scores("cityscapes27")
    assert {score.data for score in found} == {"cityscapes27"}
    assert len({score.stamp for score in found}) > 1
    assert published_scores("synthetic") == []


def test_one_number_is_found_by_its_network() -> None:
    found = find_score("cityscapes27", "cause", "TR", "vit_base_patch14_dinov2.lvd142m")
    assert found is not None
    assert (found.unsup_miou, found.backbone) == (29.9, "DINOv2 ViT-B/14")
    assert find_score("cityscapes27", "cause", "TR", "vit_small_patch16_dinov3.lvd1689m") is None
    assert {score.backbone for score in SCORES} == set(NETWORKS.values())
