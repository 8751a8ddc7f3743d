"""What flows between the layers: shapes are held to under test, and labels do not reach methods."""

from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import get_type_hints

import pytest
import torch
from jaxtyping import TypeCheckError

from usseg_ray.core import types
from usseg_ray.core.types import Batch, FeatureMap, Images, LabelledImages


def images(count: int = 2) -> Images:
    ids = tuple(map(str, range(count)))
    return Images(ids, torch.zeros(count, 3, 8, 8, dtype=torch.uint8))


def batch() -> Batch:
    return Batch(("0",), torch.rand(1, 3, 8, 8), FeatureMap(torch.rand(1, 4, 2, 2)))


def test_a_shape_that_does_not_fit_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        Images(("0",), torch.zeros(1, 4, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeCheckError):
        FeatureMap(torch.rand(1, 4, 2, 2), saliency=torch.rand(1, 2, 3))
    with pytest.raises(TypeCheckError):
        LabelledImages(images(2), torch.zeros(2, 8, dtype=torch.int64))


def test_a_type_of_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        Images(("0",), torch.zeros(1, 3, 8, 8))
    with pytest.raises(TypeCheckError):
        LabelledImages(images(1), torch.zeros(1, 8, 8))


def test_a_batch_has_no_place_for_a_label() -> None:
    def reached(kind: type, seen: set[type]) -> set[type]:
        """Collects the types of this module that a value of a type can hold."""
        if kind in seen:
            return seen
        seen.add(kind)
        text = " ".join(str(hint) for hint in get_type_hints(kind).values())
        for other in vars(types).values():
            if isinstance(other, type) and is_dataclass(other) and other.__name__ in text:
                reached(other, seen)
        return seen

    found = reached(Batch, set())
    assert FeatureMap in found
    assert LabelledImages not in found
    assert not [f.name for kind in found for f in fields(kind) if "label" in f.name]


def test_nobody_changes_a_batch_under_another() -> None:
    given = batch()
    with pytest.raises(FrozenInstanceError):
        given.ids = ("1",)  # type: ignore[misc]
