"""The linear probe's loss against HP's official one: values 1e-5, gradients 1e-4 of the largest."""

import torch
from torch.nn.functional import interpolate, one_hot

from tests.numerics.comparing import Golden, close, close_gradient
from usseg_ray.scoring.linear_probe import share_loss


def test_with_one_pixel_a_row_the_loss_is_the_official_one(golden: Golden) -> None:
    vectors = golden("hp/hp_linear_probe_loss.npz")
    logits = torch.as_tensor(vectors["logits"]).clone().requires_grad_()
    label, classes = torch.as_tensor(vectors["label"]), int(vectors["n_classes"])
    counts = (label >= 0) & (label < classes)
    assert not counts.all()
    shares = one_hot(label.where(counts, classes), classes + 1)[..., :-1].flatten(0, 2).float()
    size = (label.shape[1], label.shape[2])
    pixels = interpolate(logits, size=size, mode="bilinear", align_corners=False)
    loss = share_loss(pixels.permute(0, 2, 3, 1).flatten(0, 2), shares)
    close(loss, vectors["loss"])
    loss.backward()
    close_gradient(logits.grad, vectors["grad_logits"])
