"""What a method declares its training not to read: the same state comes of other values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.cases import (
    CASE_IDS,
    CASES,
    LEARNERS,
    NUM_CLUSTERS,
    Case,
    Walks,
    make_batch,
    optimizer,
    step,
)

OTHERWISE: dict[str, Any] = {
    "num_clusters": 6,
    "method.context": 0.75,
    "method.cluster_lr": 0.1,
    "method.max_regions": 9,
}
"""Of every setting that a method declares untouched, another value than by default."""
UNTOUCHED = [
    (case, key)
    for case in LEARNERS
    for key in sorted(case.method.untouched(case.config))
    if case.settings.get(key.removeprefix("method.")) != OTHERWISE[key]
]


def learnt(case: Case, num_clusters: int) -> tuple[dict[str, Tensor], Tensor]:
    """Trains all stages, and groups between two epochs of each, as a score does."""
    method = case.build(num_clusters).train()
    for stage in method.stages:
        adam = optimizer(method, stage.name)
        for epoch in range(2):
            method.train().on_epoch_start(stage.name, epoch, Walks(range(12)))
            for image in range(2):
                step(method, stage.name, adam, range(image, image + 3))
            method.eval().fit_clusters(Walks(range(7)))
    state = method.state_dict()
    kept = {name: state[name] for name in state if name not in method.centroids_in}
    return kept, method.describe(make_batch(range(3)))


@pytest.mark.parametrize(
    ("case", "key"),
    UNTOUCHED,
    ids=[f"{CASE_IDS[CASES.index(case)]}-{key}" for case, key in UNTOUCHED],
)
def test_training_does_not_read_what_is_declared_untouched(case: Case, key: str) -> None:
    state, codes = learnt(case, NUM_CLUSTERS)
    name = key.removeprefix("method.")
    changed = {} if key == "num_clusters" else {name: OTHERWISE[key]}
    count = OTHERWISE[key] if key == "num_clusters" else NUM_CLUSTERS
    other, other_codes = learnt(Case(case.method, case.settings | changed), count)
    assert other.keys() == state.keys()
    assert all(torch.equal(other[name], state[name]) for name in state)
    assert torch.equal(other_codes, codes)


def test_methods_whose_training_reads_k_say_so() -> None:
    declared = [(case, case.method.untouched(case.config)) for case in CASES]
    free = {case.method.name for case, keys in declared if "num_clusters" in keys}
    assert free == {"stego", "hp", "cause", "equss", "ppap", "acseg"}
    assert all(not keys for case, keys in declared if case.learns_clusters)
