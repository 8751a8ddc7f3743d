from pathlib import Path

import pytest

from tests import tiny
from usseg_ray.core.errors import UserError
from usseg_ray.scoring.objective import (
    CRITERIA,
    MIOU,
    OBJECTIVES,
    VIEW_INFORMATION,
    WITHOUT_LABELS,
    digits,
    kept_clusters,
    require_labels,
    resolve_objective,
    short,
)


def test_auto_is_label_free_where_nothing_is_labelled(tmp_path: Path) -> None:
    whole = tiny.write(tmp_path / "whole")
    bare = tiny.write(tmp_path / "bare", labelled=False)
    assert resolve_objective("auto", whole, "val") == MIOU
    assert resolve_objective("auto", bare, "val") == WITHOUT_LABELS
    # A name that is not there is a slip, unless there are no labels at all.
    assert resolve_objective("auto", whole, "vla") == MIOU
    assert resolve_objective("auto", bare, "vla") == WITHOUT_LABELS
    half = whole.model_copy(
        update={"splits": whole.splits | {"val": bare.splits["val"]}},
    )
    assert resolve_objective("auto", half, "val") == WITHOUT_LABELS
    assert resolve_objective("label_free", whole, "val") == WITHOUT_LABELS


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_named_is_taken(tmp_path: Path, name: str) -> None:
    assert resolve_objective(name, tiny.write(tmp_path), "val") == name
    assert digits(name) == (1 if name == MIOU else 3)
    assert short(name) == name.rsplit(".", maxsplit=1)[-1]


def test_mistakes(tmp_path: Path) -> None:
    manifest = tiny.write(tmp_path, labelled=False)
    with pytest.raises(UserError, match=r"label_free\.stabilty .*did you mean 'label_free\.stab"):
        resolve_objective("label_free.stabilty", manifest, "val")
    with pytest.raises(UserError, match=r"one of auto, label_free, unsup_miou, label_free\."):
        resolve_objective("xyz", manifest, "val")
    with pytest.raises(UserError, match="no labels to rank trials by unsup_miou; --objective lab"):
        require_labels(manifest, "val", "there")
    with pytest.raises(UserError, match="there has no split 'x' to rank trials on, only train"):
        require_labels(manifest, "x", "there")


def test_the_names_of_criteria_are_told_apart() -> None:
    assert len(set(OBJECTIVES)) == len(CRITERIA) + 2


def test_the_kind_with_more_is_kept_and_kmeans_of_equal_ones() -> None:
    assert not kept_clusters({"loss": 3.0, VIEW_INFORMATION: 0.5})
    assert kept_clusters({"clusters.probe": 0.6, "clusters.kmeans": 0.5, "loss": 1.0}) == "probe"
    assert kept_clusters({"clusters.probe": 0.5, "clusters.kmeans": 0.5}) == "kmeans"
