"""A checkpoint is known by its tensors' names, and one that is incomplete is refused."""

import pytest
import torch

from usseg_ray.core.errors import UserError
from usseg_ray.models.official.layouts import recognise


def test_what_is_of_no_method_is_refused() -> None:
    with pytest.raises(UserError, match="none of STEGO, HP, CAUSE, SmooSeg and PiCIE"):
        recognise({"state_dict:layer.weight": torch.ones(2)})


def test_what_lacks_a_part_is_refused_by_name() -> None:
    clusters = {"state_dict:cluster_probe.clusters": torch.ones(3, 4)}
    with pytest.raises(UserError, match=r"lacks cluster1\.0\.weight"):
        recognise(clusters)
    # CAUSE's segment without its clusters.
    with pytest.raises(UserError, match=r"lacks cluster_probe.*modular\.npy"):
        recognise({"head_ema.f1.weight": torch.ones(2, 3, 1, 1)})
