"""PriMaPs-EM against a rewrite in loops and float64: masks equal, values and gradients to 1e-5."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.contract.cases import FEATURES, Walks, make_batch
from tests.numerics.comparing import close, close_gradient
from usseg_ray.core.types import Batch, FeatureMap
from usseg_ray.methods.primaps import PriMaPs
from usseg_ray.ops.principal_masks import principal_masks
from usseg_ray.settings.primaps import PriMaPsConfig

DIM, SIDE, K = FEATURES.dim, 7, 4


def scene(number: int) -> np.ndarray:
    """Draws (D, h, w) tokens of a few blocks, the directions of which vary unequally."""
    random = np.random.default_rng(number)
    centres = random.normal(size=(4, DIM)) * np.array([4.0, 3.0, 2.0, 1.5])[:, None] + 1.0
    labels = np.zeros((SIDE, SIDE), dtype=int)
    labels[: random.integers(2, 6), : random.integers(2, 6)] = 1
    labels[random.integers(3, 5) :, random.integers(2, 5) :] = 2
    labels[-2:, :3] = 3
    tokens = centres[labels] + 0.25 * random.normal(size=(SIDE, SIDE, DIM))
    return np.moveaxis(tokens, 2, 0)


def naive_masks(
    tokens: np.ndarray, psi: float, explained: float = 0.95, *, centre: bool = False
) -> np.ndarray:
    """The definition, one token after the other; directions by a singular value decomposition."""
    dim, height, width = tokens.shape
    rows = [tokens[:, i, j] for i in range(height) for j in range(width)]
    mean = sum(rows) / len(rows)
    rows = [row - mean for row in rows] if centre else rows
    unit = [row / np.linalg.norm(row) for row in rows]
    left, found, number = list(range(len(rows))), [0] * len(rows), 0
    while 1 - len(left) / len(rows) < explained:
        number += 1
        own = np.stack([rows[i] for i in left])
        direction = np.linalg.svd(own - own.mean(0))[2][0] if len(left) > 1 else np.zeros(dim)
        seed = max(left, key=lambda i: abs(unit[i] @ direction))
        joins = [i for i in left if unit[i] @ unit[seed] >= psi]
        for i in joins:
            found[i] = number
        left = [i for i in left if i not in joins]
    raw = np.array(found).reshape(height, width)
    smooth = np.zeros_like(raw)
    for i in range(height):
        for j in range(width):
            around = Counter(
                int(raw[min(max(i + a, 0), height - 1), min(max(j + b, 0), width - 1)])
                for a in (-1, 0, 1)
                for b in (-1, 0, 1)
            )
            mask, count = around.most_common(1)[0]
            smooth[i, j] = mask if count >= 5 else 0
    return smooth


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("psi", [0.4, 0.7])
@pytest.mark.parametrize("explained", [0.95, 0.6])
def test_masks(psi: float, explained: float, centre: bool) -> None:
    scenes = [scene(number) for number in range(8)]
    tokens = torch.tensor(np.stack(scenes), dtype=torch.float32)
    found = principal_masks(tokens, psi, explained=explained, centre=centre)
    expected = [naive_masks(one, psi, explained, centre=centre) for one in scenes]
    np.testing.assert_array_equal(found.numpy(), np.stack(expected))
    assert found.amax((1, 2)).min() >= 1
    assert len(found.unique()) > 2


def stepped(config: PriMaPsConfig) -> tuple[PriMaPs, Batch]:
    """A method whose student has moved away from its teacher, and a batch of scenes."""
    method = PriMaPs(config, FEATURES, K, seed=0)
    tokens = torch.tensor(np.stack([scene(number) for number in range(3)]), dtype=torch.float32)
    batch = replace(make_batch(range(3)), features=FeatureMap(tokens))
    method.on_epoch_start("train", 0, Walks(range(7)))
    with torch.no_grad():
        method.student.centroids.add_(0.3 * torch.linspace(-1, 1, DIM))
        method.student.lengths.mul_(torch.linspace(0.5, 1.5, K)[:, None])
    return method, batch


@pytest.mark.parametrize("focus", [2.0, 0.0])
def test_loss_and_gradient(focus: float) -> None:
    config = PriMaPsConfig(focus=focus, scale=3.0)
    method, batch = stepped(config)
    method.loss(batch, "train").loss.backward()
    tokens = batch.features.tokens.numpy().astype(np.float64)
    student, teacher = (
        (p.centroids.detach().numpy().astype(np.float64), p.lengths.detach().numpy()[:, 0])
        for p in (method.student, method.teacher)
    )
    logits, labels, inputs = [], [], []
    for image in tokens:
        masks = naive_masks(image, config.psi).ravel()
        rows = [image[:, i, j] for i in range(SIDE) for j in range(SIDE)]
        mean_length = sum(np.linalg.norm(row) for row in rows) / len(rows)
        rows = [3.0 / mean_length * row for row in rows]
        ids = [
            max(range(K), key=lambda k: teacher[1][k] * _unit(teacher[0][k]) @ row) for row in rows
        ]
        votes = {
            m: Counter(i for i, own in zip(ids, masks, strict=True) if own == m) for m in masks
        }
        labels += [None if m == 0 else votes[m].most_common(1)[0][0] for m in masks]
        logits += [[student[1][k] * _unit(student[0][k]) @ row for k in range(K)] for row in rows]
        inputs += rows
    shares = [np.exp(row) / np.exp(row).sum() for row in np.array(logits)]
    weights = (1 - sum(shares) / len(shares)) ** focus
    loss, by_weight = 0.0, np.zeros((K, DIM))
    for row, share, label in zip(inputs, shares, labels, strict=True):
        if label is None:
            continue
        loss -= weights[label] * np.log(share[label]) / len(labels)
        for k in range(K):
            slope = weights[label] * (share[k] - (k == label)) / len(labels)
            by_weight[k] += slope * row
    assert None in labels
    assert len(set(labels)) > 2
    close(method.loss(batch, "train").loss, loss)
    by_length = [by_weight[k] @ _unit(student[0][k]) for k in range(K)]
    by_direction = [
        student[1][k]
        / np.linalg.norm(student[0][k])
        * (by_weight[k] - by_length[k] * _unit(student[0][k]))
        for k in range(K)
    ]
    close_gradient(method.student.lengths.grad, np.array(by_length)[:, None])
    close_gradient(method.student.centroids.grad, np.stack(by_direction))


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit


def test_teacher_is_copied_twice_and_then_follows_ever_slower() -> None:
    method, _ = stepped(PriMaPsConfig(renewal_steps=3, decay=0.7))
    random = np.random.default_rng(0)
    teacher = method.teacher.centroids.numpy().astype(np.float64)
    for step in range(1, 22):
        student = random.normal(size=(K, DIM)).astype(np.float32)
        with torch.no_grad():
            method.student.centroids.copy_(torch.from_numpy(student))
        method.after_step()
        if step % 3 == 0:
            renewal = step // 3
            decay = {1: 0.0, 2: 0.0, 3: 2 / 3}.get(renewal, 0.7)
            teacher = decay * teacher + (1 - decay) * student
        close(method.teacher.centroids, teacher)
