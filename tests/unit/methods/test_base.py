"""What every method inherits: refusals, stages, mirrored prediction, defaults."""

from dataclasses import FrozenInstanceError, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.contract.cases import FEATURES, Walks, make_batch
from usseg_ray.core.config import MethodConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, Needs
from usseg_ray.methods.base import CodeClassifier, Defaults, Method, Passes, Stage


class Plain(Method):
    """Scores two clusters by the squares of the first two channels."""

    name: ClassVar[str] = "plain"
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    wanted: ClassVar[Needs] = Needs()

    @classmethod
    def needs(cls, config: Any) -> Needs:  # noqa: ARG003
        return cls.wanted

    def fit_clusters(self, passes: Passes) -> None:
        """Has nothing to find."""

    def describe(self, batch: Batch) -> Tensor:
        return batch.features.tokens

    def predict(self, batch: Batch) -> Tensor:
        return self.encode(batch)[:, :2] ** 2


class ByCodes(CodeClassifier):
    """The same, as a function of its codes."""

    name: ClassVar[str] = "by-codes"
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    stages: ClassVar[tuple[Stage, ...]] = (Stage("first", scored=False), Stage("second"))

    def fit_clusters(self, passes: Passes) -> None:
        """Has nothing to find."""

    def describe(self, batch: Batch) -> Tensor:
        return batch.features.tokens

    def classify(self, codes: Tensor) -> Tensor:
        return codes[:, :2] ** 2


@pytest.mark.parametrize(
    ("wanted", "what"),
    [
        (Needs(attention="cls"), "last-block attention"),
        (Needs(local_attention=True), "last-block attention"),
        (Needs(crop_tokens=True), "CLS tokens"),
    ],
)
def test_what_a_backbone_does_not_have_is_refused(
    wanted: Needs, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plain, "wanted", wanted)
    without = replace(FEATURES, has_attention=False)
    with pytest.raises(UserError, match=rf"method 'plain' asks for {what}, which this backbone"):
        Plain(MethodConfig(), without, 2, seed=0)
    assert Plain(MethodConfig(), FEATURES, 2, seed=5).seed == 5


def test_patch_tokens_alone_are_no_reason_to_refuse() -> None:
    method = Plain(MethodConfig(), replace(FEATURES, has_attention=False), 3, seed=0)
    assert (method.num_clusters, Method.needs(MethodConfig())) == (3, Needs())


def test_a_stage_takes_the_epochs_of_a_run_unless_a_method_says_otherwise() -> None:
    assert Plain.stage_epochs(MethodConfig(), 7) == (7,)
    assert ByCodes.stage_epochs(MethodConfig(), 7) == (7, 7)
    assert [stage.scored for stage in ByCodes.stages] == [False, True]


def test_nothing_learns_and_there_is_no_loss_unless_a_method_has_them() -> None:
    method = ByCodes(MethodConfig(), FEATURES, 2, seed=0)
    assert method.param_groups("first") == []
    with pytest.raises(TypeError, match=r"by-codes has no stage 'third' .* from 2 images"):
        method.loss(make_batch(range(2)), "third")


def test_scores_of_an_image_and_its_mirror_image_are_averaged() -> None:
    one, other = make_batch([0]), make_batch([1])
    method = Plain(MethodConfig(), FEATURES, 2, seed=0)
    first, second = (batch.features.tokens[:, :2] for batch in (one, other))
    expected = (first**2 + second.flip(-1) ** 2) / 2
    torch.testing.assert_close(method.predict_mirrored(one, other), expected)


def test_codes_are_averaged_before_they_are_classified() -> None:
    one, other = make_batch([0]), make_batch([1])
    method = ByCodes(MethodConfig(), FEATURES, 2, seed=0)
    first, second = (batch.features.tokens[:, :2] for batch in (one, other))
    expected = ((first + second.flip(-1)) / 2) ** 2
    torch.testing.assert_close(method.predict_mirrored(one, other), expected)
    torch.testing.assert_close(method.predict(one), first**2)


def test_a_method_that_states_no_defaults_changes_no_setting() -> None:
    assert Plain.defaults == Defaults()
    assert not any((Plain.defaults.schedule, Plain.defaults.embedded, Plain.defaults.textons))
    with pytest.raises(FrozenInstanceError):
        Plain.defaults.schedule = {"train.epochs": 1}  # type: ignore[misc]


def test_a_walk_is_both_whole_and_in_crops() -> None:
    assert isinstance(Walks(range(2)), Passes)
    assert not isinstance(lambda: iter(()), Passes)


def test_a_method_without_a_prediction_cannot_be_built() -> None:
    class Unfinished(Method):
        name: ClassVar[str] = "unfinished"
        Config: ClassVar[type[MethodConfig]] = MethodConfig

    with pytest.raises(TypeError, match=r"abstract .*describe.*fit_clusters.*predict"):
        Unfinished(MethodConfig(), FEATURES, 2, seed=0)  # type: ignore[abstract]
