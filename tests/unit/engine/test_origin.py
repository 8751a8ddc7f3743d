"""A trained method beside another one: as it was trained, frozen, and not any other file."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.contract.cases import FEATURES, NUM_CLUSTERS, SMALL, Case, Walks, make_batch
from usseg_ray.core.config import Origin
from usseg_ray.core.errors import UserError
from usseg_ray.engine.origin import trained_method
from usseg_ray.methods import get
from usseg_ray.methods.base import Method


def written(
    folder: Path, name: str, taken: str | None = None, **settings: Any
) -> tuple[Method, Origin, str]:
    """Keeps the weights of a method that took a kind of clusters, and says what they are."""
    case = Case(get(name), settings)
    method, file = case.build(seed=3), folder / "model.safetensors"
    if taken is not None:
        method.eval().fit_clusters(Walks(range(12)))
        method.clusterings()[taken]()
    content = safetensors.torch.save({k: v.clone() for k, v in method.state_dict().items()})
    file.write_bytes(content)
    origin = Origin(
        method=name,
        num_clusters=NUM_CLUSTERS,
        settings=case.config.model_dump(mode="json"),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return method, origin, str(file)


@pytest.mark.parametrize("name", ["stego", "hp", "cause", "equss"])
def test_its_codes_are_those_of_the_trained_one_and_nothing_learns(
    tmp_path: Path, name: str
) -> None:
    method, origin, file = written(tmp_path, name)
    found, batch = trained_method(FEATURES, origin, file), make_batch(range(3))
    assert torch.equal(found.encode(batch), method.eval().encode(batch))
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    drawn = trained_method(FEATURES, origin, None)
    assert not torch.equal(drawn.encode(batch), found.encode(batch))
    assert drawn.state_dict().keys() == found.state_dict().keys()


def test_another_or_a_missing_file_is_refused_in_a_line(tmp_path: Path) -> None:
    _, origin, file = written(tmp_path, "stego", dim=SMALL["stego"]["dim"])
    other = origin.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(UserError, match="no longer the stego that this run began with"):
        trained_method(FEATURES, other, file)
    with pytest.raises(UserError, match="cannot be read"):
        trained_method(FEATURES, origin, f"{file}.gone")
