"""A method on its frozen backbone: what a run trains, and what a saved state is loaded into."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from usseg_ray.core.config import Config, MethodConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import FeatureSpec
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.engine.origin import trained_method
from usseg_ray.features.backbones import build_backbone, feature_spec
from usseg_ray.features.featuriser import FeatureFinder, Featuriser
from usseg_ray.methods.base import Method
from usseg_ray.scoring.prediction import Predictor, Refiners, Scorer, scorer_of
from usseg_ray.scoring.protocols import find_protocol


@dataclass
class Model:
    """A method with the backbone that it reads, on one device.

    Attributes:
        config: The resolved settings.
        method: The method.
        featurise: Images to batches, through the frozen backbone.
    """

    config: Config[MethodConfig]
    method: Method
    featurise: Featuriser

    def load(self, checkpoint: Path) -> None:
        """Takes the method's weights and clusters from a saved state.

        Args:
            checkpoint: Its folder.

        Raises:
            UserError: Another version of usseg_ray wrote it.
        """
        state = RunState.load(checkpoint, self.featurise.device)
        self.method.load_state_dict(state.method)

    def predictor(
        self,
        scorer: Scorer | None = None,
        refining: Refiners = Refiners(),  # noqa: B008 (frozen)
    ) -> Predictor:
        """Returns what makes label maps under the protocol.

        Args:
            scorer: What scores tokens; the method's clusters if unset.
            refining: What there is to be beside the plain prediction.
        """
        config = self.config
        if scorer is None:
            scorer = scorer_of(self.method, find_protocol(config.protocol).upsampled)
        side, size = config.data.eval_size, config.train.eval_batch_size
        return Predictor(scorer, self.featurise, side, refining, size)


def method_spec(config: Config[MethodConfig]) -> FeatureSpec:
    """Says what a method is built on: its backbone's features, and trained methods on them.

    Raises:
        UserError: Backbone and sizes do not fit together.
    """
    spec = feature_spec(config.backbone, config.data)
    return replace(spec, trained=partial(trained_method, spec))


def build_model(
    config: Config[MethodConfig],
    method_class: type[Method],
    device: torch.device,
    stored: FeatureFinder | None = None,
) -> Model:
    """Builds a backbone and an untrained method from resolved settings.

    Args:
        config: The settings; `num_clusters` is a number.
        method_class: The method whose settings these are.
        device: Where to compute.
        stored: Finds features that were computed before.

    Raises:
        UserError: Sizes, weights or settings do not fit together.
    """
    if config.num_clusters is None:
        raise UserError("num_clusters is not set and the data names no classes to take it from.")
    needs = method_class.needs(config.method)
    spec = method_spec(config)
    method = method_class(config.method, spec, config.num_clusters, config.seed)
    featurise = Featuriser(
        build_backbone(config.backbone) if needs.features else None,
        needs,
        device,
        autocast=config.resources.arithmetic(device.type) == "bfloat16",
        seed=config.seed,
        crop_size=config.data.train_size,
        stored=stored,
        view_draws=config.data.view_draws,
    )
    return Model(config, method.to(device), featurise)
